"""Teachers: from timm's pretrained weights, from a checkpoint file, or trained by kdbench and kept as safetensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.method import Batch, Network, Output, both_views
from kdbench.records import Store, Tell
from kdbench.records.files import set_aside
from kdbench.records.reading import Damaged
from kdbench.seeding import seed_all
from kdbench.suites.grid import Cell, TeacherSpec
from kdbench.tasks import Task
from kdbench.training.layouts import OWN, fitted
from kdbench.training.weights import digest_of, fault_of_trained, read_weights, save_trained

if TYPE_CHECKING:
    from kdbench.training.learner import Learner  # it loads timm, which commands that only look do without


class Teachers:
    """The folder of trained teachers: `records/`, `checkpoints/` and `weights/`."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.layouts: dict[TeacherSpec, str] = {}  # in which each checkpoint was, of those that were loaded
        self._sound: set[str] = set()  # ids of trainings whose weights were looked at

    def missing(self, cell: Cell) -> list[Cell]:
        """The trainings that must run before this cell can."""
        return [t for t in self._trainings(cell) if not self._trained(t)]

    def _trained(self, training: Cell) -> bool:
        try:
            done = self.store.has(training.id) and self.store.read(training.id)["status"] == "done"
        except Damaged:
            return False
        return done and self._file(training).exists()

    @staticmethod
    def _trainings(cell: Cell) -> list[Cell]:
        return [cell.training_of(teacher) for teacher in cell.teachers if teacher.weights == "train"]

    def save(self, learner: Learner) -> str:
        """Keep a trained teacher's weights; called before its record is written, which is to hold their digest."""
        return save_trained(self._file(learner.cell), learner.cell.id, learner.students[0].core.state_dict())

    def set_aside_unsound(self, cell: Cell, tell: Tell) -> None:
        """Take away what is not the weights that the cell's teachers were trained to, so that they train again.

        Args:
            tell: hears a sentence about each file.
        """
        for training in self._trainings(cell):
            file = self._file(training)
            if training.id in self._sound or not self._trained(training):
                continue
            if fault := fault_of_trained(file, training.id, self.store.read(training.id)):
                aside = set_aside(file)
                tell(f"weights {str(file)!r} are not used ({fault}): they are now {aside.name!r}, and train again")
            else:
                self._sound.add(training.id)

    def load(self, cell: Cell, teacher: TeacherSpec, task: Task) -> Network:
        """A frozen teacher in eval mode, on the device.

        Raises:
            KDBenchError: if weights are absent, damaged, not those of the digest, or not of this network and data.
        """
        seed_all("teacher", teacher.network, teacher.seed)  # a network's random parts, if its weights leave any
        options: dict[str, Any] = {}
        if teacher.mean:
            options["own_normalization"] = (teacher.mean, teacher.std)
        if teacher.weights == "pretrained":
            network = task.network(teacher.network, pretrained=True, keep_classifier=True, **options)
        else:
            file = self._file(cell.training_of(teacher)) if teacher.weights == "train" else Path(teacher.weights)
            network = task.network(teacher.network, **options)
            weights, self.layouts[teacher] = fitted(network, read_weights(file, teacher.sha256))
            network.core.load_state_dict(weights)
        _check_finite(network, teacher)
        return network.requires_grad_(False).eval()

    def describe(self, cell: Cell, teacher: TeacherSpec, network: Network) -> dict[str, Any]:
        """What the record says of a teacher, without its score; `sha256` is of the weights that it has here."""
        trained = teacher.weights == "train"
        layout = self.layouts.get(teacher, OWN)
        return {
            "network": teacher.network,
            "seed": teacher.seed,
            "weights": cell.training_of(teacher).id if trained else teacher.sha256 or teacher.weights,
            "sha256": digest_of(network.core.state_dict()),
            **({"layout": layout} if layout != OWN else {}),
        }

    def _file(self, training: Cell) -> Path:
        return self.store.weights(training.id)


def _check_finite(network: Network, teacher: TeacherSpec) -> None:
    for name, tensor in network.core.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise KDBenchError(
                f"teacher {str(teacher)!r} has weights that are no numbers (NaN or infinite in {name!r}): nothing can "
                "be learnt from it, give it another checkpoint"
            )


@dataclass
class Teacher:
    """One frozen teacher of a cohort: its network, how it is called, what records say, its predictions."""

    network: Network
    call: Callable[[Tensor], Output]
    about: dict[str, Any]
    predictions: Any

    @torch.no_grad()  # not inference mode: its tensors could not be saved for a student's backward pass
    def __call__(self, batch: Batch) -> Output:
        return both_views(self.call, batch.inputs, batch.strong)

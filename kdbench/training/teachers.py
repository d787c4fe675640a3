"""Teachers: from timm's pretrained weights, from a checkpoint file, or trained by kdbench and kept as safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.method import Batch, Network, Output, both_views
from kdbench.records import Store
from kdbench.records.files import write_atomically
from kdbench.seeding import seed_all
from kdbench.suites.grid import Cell, TeacherSpec
from kdbench.tasks import Task


class Teachers:
    """The folder of trained teachers: `records/`, `checkpoints/` and `weights/`."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.weights = folder / "weights"

    def missing(self, cell: Cell) -> list[Cell]:
        """The trainings that must run before this cell can."""
        trainings = [cell.training_of(teacher) for teacher in cell.teachers if teacher.weights == "train"]
        return [t for t in trainings if not (self.store.has(t.id) and self._file(t).exists())]

    def save(self, cell: Cell, network: Network) -> None:
        """Keep a trained teacher's weights; called before its record is written."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.core.state_dict().items()}
        write_atomically(self._file(cell), safetensors.torch.save(weights))

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
            network = task.network(teacher.network, pretrained=True, **options)
        else:
            file = self._file(cell.training_of(teacher)) if teacher.weights == "train" else Path(teacher.weights)
            network = task.network(teacher.network, **options)
            load_weights(network, read_weights(file, teacher.sha256))
        return network.requires_grad_(False).eval()

    def describe(self, cell: Cell, teacher: TeacherSpec) -> dict[str, Any]:
        """What the record says of a teacher, without its score."""
        trained = teacher.weights == "train"
        return {
            "network": teacher.network,
            "seed": teacher.seed,
            "weights": cell.training_of(teacher).id if trained else teacher.sha256 or teacher.weights,
        }

    def _file(self, training: Cell) -> Path:
        return self.weights / f"{training.id}.safetensors"


def read_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint: safetensors, or torch's format, of which only tensors are ever loaded.

    Args:
        sha256: the file's digest in hex, checked where given.

    Raises:
        KDBenchError: if the file is absent, damaged, of another digest, or holds code instead of weights.
    """
    if not path.is_file():
        raise KDBenchError(f"checkpoint {str(path)!r} does not exist: correct the teacher's `weights` in the suite")
    if sha256 and (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256.lower():
        raise KDBenchError(
            f"checkpoint {str(path)!r} has sha256 {found}, not {sha256}: fetch it again or correct the suite"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise KDBenchError(
            f"checkpoint {str(path)!r} cannot be read as plain weights ({type(error).__name__}): it is damaged or holds"
            " code; delete it, or save its state_dict as safetensors"
        ) from error
    for key in ("state_dict", "model", "model_state", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    entries = content.items() if isinstance(content, dict) else ()
    return {str(name).removeprefix("module."): value for name, value in entries if isinstance(value, Tensor)}


def load_weights(network: Network, weights: dict[str, Tensor]) -> None:
    """Load a checkpoint's tensors.

    Raises:
        KDBenchError: naming the first tensor that is missing, unknown or of another shape.
    """
    own = network.core.state_dict()
    lacks, strange = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if lacks or strange:
        what = f"it lacks {lacks[0]!r}" if lacks else f"it has {strange[0]!r}, which the network has not"
        raise KDBenchError(f"the checkpoint is not of network {network.name!r}: {what}")
    for key, tensor in weights.items():
        if own[key].shape != tensor.shape:
            raise KDBenchError(
                f"the checkpoint for network {network.name!r} does not fit: {key!r} is {list(tensor.shape)} there and "
                f"{list(own[key].shape)} here; it was trained with another number of classes or another input"
            )
    network.core.load_state_dict(weights)


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

"""Students that are kept: the network that a finished cell deploys, and how it is put together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.records import Store, Tell
from kdbench.suites.grid import Cell, TeacherSpec
from kdbench.tasks import Task
from kdbench.training.hooks import Calling, check_deployed
from kdbench.training.learner import Learner
from kdbench.training.members import created, members
from kdbench.training.weights import fault_of_trained, read_weights, said_by, save_trained


@dataclass
class Students:
    """The kept students of a suite, `students/<cell id>.safetensors` in its folder.

    Attributes:
        store: the suite's.
        tell: hears why one cannot be kept.
    """

    store: Store
    tell: Tell

    def save(self, learner: Learner) -> str | None:
        """Keep the state of what a finished learner deploys; called before its record is written, which is to hold the
        digest that is returned. None where the state holds anything but tensors, which no file of weights can hold.
        """
        cell, deployed = learner.cell, learner.deployed()
        state = deployed.state_dict()
        if strange := [name for name, value in state.items() if not isinstance(value, Tensor)]:
            what = f"method {cell.method.label!r} on {cell.pair}"
            self.tell(f"the student of {what} is not kept: {strange[0]!r} in its state is no tensor")
            return None
        alone = deployed is learner.students[0]
        return save_trained(self.store.student(cell.id), cell.id, state, alone=alone)

    def has(self, cell: Cell) -> bool:
        """Whether the student of a finished cell was kept and its file is there."""
        kept = self.store.read(cell.id).get("weights_sha256")
        return bool(kept) and self.store.student(cell.id).exists()

    def load(self, cell: Cell, task: Task, numerics: Numerics) -> nn.Module:
        """What a finished cell deploys, in eval mode, on the device: inputs to an `Output` or its answer.

        Raises:
            KDBenchError: if it was not kept, or its file is not what the training left.
        """
        file = self.store.student(cell.id)
        if not self.has(cell):
            raise KDBenchError(f"the student of {cell.method.label!r} on {cell.pair}, seed {cell.seed}, was not kept")
        if fault := fault_of_trained(file, cell.id, self.store.read(cell.id)):
            raise KDBenchError(
                f"student {str(file)!r} is not used ({fault}): bring the right file, or delete it together with "
                f"{str(self.store.path(cell.id))!r} and train again with --keep-students"
            )
        deployed = _untrained(cell, task, numerics, said_by(file)["alone"])
        try:
            deployed.load_state_dict(read_weights(file))
        except RuntimeError as error:
            raise KDBenchError(
                f"student {str(file)!r} does not fit into {cell.pair.student!r} ({str(error).splitlines()[-1].strip()})"
                ": train it again with this version"
            ) from error
        return deployed.requires_grad_(False).eval()


def _untrained(cell: Cell, task: Task, numerics: Numerics, alone: bool) -> nn.Module:
    """What a cell deploys, with other weights: by the method's own `build` and `deploy`, as `Learner` goes about it.

    Args:
        alone: whether that is its first student as it is, which needs no teacher.
    """
    method, name = created(cell), cell.method.name
    with Calling(name, "members"):
        roles = method.members()
    students = members(cell, task, roles[:1] if alone else roles)
    if alone:
        return students[0]
    teachers = [_shaped(teacher, task) for teacher in cell.teachers]
    with Calling(name, "build"):
        method.bind(students, teachers)
    numerics.place(method)
    with Calling(name, "deploy"):
        return check_deployed(name, method.deployed(students))


def _shaped(teacher: TeacherSpec, task: Task) -> Network:
    """A network like a teacher. What of its weights is deployed is in the student's file, so that its own file may be
    gone; timm's pretrained networks come with their weights, for these decide what they take.
    """
    if teacher.weights == "pretrained":
        return task.network(teacher.network, pretrained=True, keep_classifier=True).requires_grad_(False).eval()
    own: dict[str, Any] = {"own_normalization": (teacher.mean, teacher.std)} if teacher.mean else {}
    return task.network(teacher.network, **own).requires_grad_(False).eval()

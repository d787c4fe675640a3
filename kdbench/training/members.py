"""The method and the networks that a cell trains, as they are before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench import registry
from kdbench.errors import KDBenchError, NotApplicable
from kdbench.method import Method, Network
from kdbench.seeding import seed_all
from kdbench.suites.grid import Cell
from kdbench.tasks import Task
from kdbench.training.hooks import Calling


def created(cell: Cell) -> Method:
    """A cell's method with its hyperparameters."""
    with Calling(cell.method.name, "__init__"):
        method = registry.create(cell.method.name, dict(cell.method.hyperparameters))
    method.epochs = cell.recipe.length
    return method


def members(cell: Cell, task: Task, roles: Sequence[str]) -> list[Network]:
    """The networks that train together, each from a random stream of its own.

    Args:
        roles: as `Method.members` gives them.

    Raises:
        NotApplicable: if the pair lacks assistants, or the student cannot be had in another width.
    """
    _check_assistants(cell, roles)
    return [_member(cell, task, roles, index) for index in range(len(roles))]


def _member(cell: Cell, task: Task, roles: Sequence[str], index: int) -> Network:
    pair, role = cell.pair, roles[index]
    kind, _, factor = role.partition("*")
    if kind == "assistant":
        network = pair.assistants[roles[:index].count("assistant")]
    else:
        network = pair.student if kind == "student" else pair.teacher.network
    seed_all(cell.role, cell.seed, "network", network, index)
    options = {"width_factor": float(factor)} if factor else {}
    try:
        return task.network(network, pretrained=cell.recipe.pretrained, **options)
    except KDBenchError as error:
        if not factor:
            raise
        raise NotApplicable(f"{cell.method.name} needs a student of another width: {error}") from error


def _check_assistants(cell: Cell, roles: Sequence[str]) -> None:
    wanted, pair = roles.count("assistant"), cell.pair
    if wanted > len(pair.assistants):
        raise NotApplicable(
            f"{cell.method.name} needs {wanted} assistants between {pair.teacher.network!r} and "
            f"{pair.student!r}, but the pair names {len(pair.assistants)}: add `assistants = [...]` to it"
        )

"""The networks of a paper's row as a pair of kdbench."""

from __future__ import annotations

import dataclasses

from kdbench.errors import KDBenchError
from kdbench.papers.reported import UNKNOWN, Reported
from kdbench.suites import networks
from kdbench.suites.grid import Pair, Suite, TeacherSpec


def pair_of(row: Reported, grid: Suite) -> Pair:
    """The suite's own pair of these networks, or a new one with a pool as large; every method may run on it.

    Raises:
        KDBenchError: if the source does not tell one of the networks, or kdbench does not have it.
    """
    for pair in grid.pairs:
        if (pair.teacher.network, pair.student) == (row.teacher, row.student):
            return dataclasses.replace(pair, name="", methods=())
    for what, network in (("teacher", row.teacher), ("student", row.student)):
        if network == UNKNOWN:
            raise KDBenchError(f"its {what} is not known")
        if not _known(network, row.task):
            raise KDBenchError(f"kdbench has no network {network!r}")
    like = grid.pairs[0]
    teacher = TeacherSpec(row.teacher, weights=like.teacher.weights)
    pool = tuple(dataclasses.replace(teacher, seed=seed) for seed in range(len(like.pool)))
    return Pair(teacher, row.student, pool)


def _known(network: str, task: str) -> bool:
    """Whether kdbench can build a network; checkpoints and tasks of one's own tell when they are built."""
    base, _ = networks.split(network)
    if task == "detection":
        from kdbench.tasks.detection.networks import FORMS

        form, _, base = base.partition("_")
        if form not in FORMS:
            return False
    elif task != "image":
        return True
    import timm

    return bool(timm.is_model(base.partition(".")[0]))

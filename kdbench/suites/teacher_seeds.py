"""Which trainings of its teachers a seed learns from: the same for all seeds, or for each seed its own."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdbench.suites.grid import Pair, TeacherSpec

ONE, PAIRED = "one", "paired"
TEACHER_SEEDS = (ONE, PAIRED)
SAID = {ONE: "one teacher for all seeds", PAIRED: "one teacher for each seed"}


def paired(pair: Pair, seed: int) -> Pair:
    """The pair as one seed sees it: of every network, trainings that no other seed of the pair uses.

    A pair that names the trainings 0 to n - 1 takes those from seed * n to seed * n + n - 1, in their order. Weights
    that kdbench does not train are the same for all.
    """
    span = 1 + max((teacher.seed for teacher in (pair.teacher, *pair.pool) if teacher.weights == "train"), default=0)

    def own(teacher: TeacherSpec) -> TeacherSpec:
        if teacher.weights != "train":
            return teacher
        return dataclasses.replace(teacher, seed=seed * span + teacher.seed)

    return dataclasses.replace(pair, teacher=own(pair.teacher), pool=tuple(map(own, pair.pool)))

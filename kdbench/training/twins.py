"""Copies of a learner that may take steps and be thrown away: the learner itself stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from kdbench.training.learner import Learner


def twin(learner: Learner, shared: Iterable[object] = ()) -> Learner:
    """A copy with networks, method and optimizer of its own, that runs uncompiled and measures nothing.

    Args:
        shared: what else of the learner's the copy has itself, and not copies of.
    """
    own = (learner.cell, learner.task, learner.data, learner.numerics, learner.clock, learner.calls)
    other = copy.deepcopy(learner, {id(part): part for part in (*own, *shared)})
    other.calls = list(other.students)
    other.peak_memory_mb = 0.0
    return other

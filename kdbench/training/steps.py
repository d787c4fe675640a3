"""How the learners of a cohort take their steps on a batch: in turns, as they are, or as graphs on streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from kdbench.hardware.lanes import CudaLanes
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Output
from kdbench.training.learner import Learner

Key = TypeVar("Key")


class Steps:
    """Steps as they are.

    For each batch: `lend` it, let every learner `take` its step, and `join`.
    """

    def __init__(self, numerics: Numerics) -> None:
        self._skips = numerics.skip_guards and numerics.compiles
        self._begun: WeakKeyDictionary[Learner, tuple[int, int]] = WeakKeyDictionary()

    def lend(self, batch: Batch, outputs: Mapping[Key, Output]) -> tuple[Batch, dict[Key, Output]]:
        """The batch and the teachers' outputs, where the learners read them."""
        return batch, dict(outputs)

    def take(self, learner: Learner, number: int, batch: Batch, outputs: list[Output]) -> None:
        """One learner's step on batch `number` of its epoch."""
        with learner.clock.running(), self._guarded(learner):
            learner.train_step(number, batch, outputs)

    def join(self) -> None:
        """All learners have what they need of the batch."""

    @contextmanager
    def _guarded(self, learner: Learner) -> Iterator[None]:
        """A step; with `skip_guards` a compiled student's guards are passed over once a whole epoch of the phase, which
        has compiled all that it needs, has been trained in this process.
        """
        if not self._skips:
            yield
            return
        phase, first = self._begun.setdefault(learner, (learner.phase_index, learner.epoch))
        if phase != learner.phase_index:
            self._begun[learner] = learner.phase_index, learner.epoch
        if phase != learner.phase_index or learner.epoch == first:
            yield
            return
        from kdbench.hardware.compiled import without_guards  # dynamo takes a second to import

        with without_guards():
            yield


def steps_of(numerics: Numerics) -> Steps:
    """As the numerics ask for."""
    if not numerics.graphs:
        return Steps(numerics)
    from kdbench.training.graphs import Graphs

    return Graphs(numerics, CudaLanes(numerics.device, numerics.graphs))

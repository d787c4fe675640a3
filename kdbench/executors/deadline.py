"""`--stop-after`: nothing starts that cannot end in time, and what turns out too slow gives way at an epoch's end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdbench.executors.pace import Pace
from kdbench.records import Store
from kdbench.suites.grid import Cell
from kdbench.training.learner import Learner

MARGIN = (
    1.1  # by how much longer than estimated cells may take before they are started: else they would be stopped again
)


class OutOfTime(Exception):  # noqa: N818  (nobody's fault)
    """The cells that train cannot all end in time; they are as they were at the last epoch's end."""


@dataclass(frozen=True)
class Late:
    """What the time did not suffice for.

    Attributes:
        cells: how many have no record.
        seconds: that they and the teachers they lack are likely to take; None if nothing is known of it.
        shortest: seconds that the shortest of those takes that were not begun; None if none was weighed.
    """

    cells: int
    seconds: float | None
    shortest: float | None


class Deadline:
    """The end of the time that a run was given.

    Args:
        seconds: from now on.
        guess: as of `kdbench.executors.pace.Pace`.
        clock: seconds that only grow.
    """

    def __init__(
        self, seconds: float, guess: Callable[[Cell], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock, self.pace = clock, Pace(guess)
        self._end = clock() + seconds
        self.shortest: float | None = None

    @property
    def left(self) -> float:
        return self._end - self.clock()

    def fitting(self, cells: Sequence[Cell], store: Store) -> list[Cell]:
        """Those of the cells that can all end in time side by side: the first ones, and what fits beside them."""
        chosen: list[Cell] = []
        spent = 0.0
        if self.left <= 0:
            return chosen
        for cell in cells:
            needs = self.pace.left(cell, store)
            if (spent + needs) * MARGIN <= self.left:
                chosen.append(cell)
                spent += needs
            else:
                self.shortest = needs if self.shortest is None else min(needs, self.shortest)
        return chosen

    def watch(self) -> Callable[[Sequence[Learner], Sequence[Learner]], None]:
        """What a cohort calls at each epoch's end (`kdbench.training.cohort.Cohort.after_epoch`)."""
        return _Watch(self)


class _Watch:
    """Learns how long epochs take, and stops a cohort as soon as it is sure that it cannot end in time."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline, self.pace = deadline, deadline.pace
        self._last, self._first = deadline.clock(), True

    def __call__(self, ran: Sequence[Learner], unfinished: Sequence[Learner]) -> None:
        now = self.deadline.clock()
        seconds, self._last = now - self._last, now
        if ran:
            shares = {learner.cell: learner.curve[-1].get("seconds", 1.0) for learner in ran}
            self.pace.saw(seconds, shares, rough=self._first)
        first, self._first = self._first, False
        if not unfinished:
            return
        # the first epoch loads data and compiles: it says little of those to come
        needs = (
            0.0 if first else sum((self.pace.epoch(e.cell) or 0.0) * (e.recipe.epochs - e.epoch) for e in unfinished)
        )
        if self.deadline.left <= max(needs, 0.0):
            raise OutOfTime

"""When the learners of a cohort are saved: at an epoch's end, not more often than every 30 seconds, and at their end.

What a kill costs is therefore an epoch or 30 seconds, whichever is more. The first learner that reaches an epoch's end
decides for all that do, so that they go on from one epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from kdbench.records import Store
from kdbench.records.snapshots import Snapshot
from kdbench.records.writer import Writer
from kdbench.training.learner import Learner

EVERY = 30.0  # seconds


class Saving:
    """Saves the learners of one cohort; a context that ends with everything on disk.

    Args:
        every: seconds between the checkpoints of a learner, at least; None: 30.
        clock: seconds that only grow.
    """

    def __init__(self, store: Store, every: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer, self._store, self._clock = Writer(store), store, clock
        self._every = EVERY if every is None else every
        self._last, self._epoch, self._due = clock(), 0, False
        self._unsaved: dict[str, Learner] = {}

    def __enter__(self) -> Saving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._writer.close()
            return
        with suppress(Exception):  # the first error is the one to tell of
            self._writer.close()

    def offer(self, learner: Learner) -> None:
        """Save a learner that stands at an epoch's end, if it is time; a finished one is then on disk.

        Raises:
            KDBenchError: if the disk is full or the folder cannot be written, now or some checkpoints ago.
            TypeError: if its method keeps a state that no checkpoint can hold.
        """
        if learner.epoch != self._epoch:
            now = self._clock()
            self._epoch, self._due = learner.epoch, now - self._last >= self._every
            self._last = now if self._due else self._last
        self._unsaved[learner.cell.id] = learner
        if self._due or learner.finished:
            self._save(learner)
        if learner.finished:
            self._writer.wait()

    @contextmanager
    def all_if_it_ends(self) -> Iterator[None]:
        """A block between two epochs; if it ends the cohort, no epoch that was trained is lost."""
        try:
            yield
        except Exception:
            for learner in [each for each in self._unsaved.values() if not self._store.has(each.cell.id)]:
                self._save(learner)
            raise

    def _save(self, learner: Learner) -> None:
        self._writer.bring(learner.cell.id, Snapshot(learner.state_dict()))
        self._unsaved.pop(learner.cell.id, None)

"""The batches of each epoch of a cohort: a pass over the data, or as many as a part of the training has updates."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import count, islice

from kdbench.method import Batch
from kdbench.suites.recipe import Recipe
from kdbench.tasks import TrainingSet


class Passes:
    """Goes through a training set epoch by epoch.

    Where the recipe counts updates, parts follow one another in one row of passes: a part may end within a pass, and
    the next one goes on there. So batch n of a training is the same wherever it was stopped and taken up again.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._row: Generator[Batch] | None = None
        self._at: tuple[TrainingSet | None, int] = None, 0  # which set the row is of, and the number of its next batch

    def epoch(self, data: TrainingSet, number: int) -> Iterator[Batch]:
        """The batches of epoch or part `number`, from 0."""
        return self._part(data, *self.recipe.part(number)) if self.recipe.updates else data.epoch(number)

    def close(self) -> None:
        """Let go of the data and of what reads it ahead."""
        if self._row is not None:
            self._row.close()
        self._row, self._at = None, (None, 0)

    def _part(self, data: TrainingSet, start: int, end: int) -> Iterator[Batch]:
        if self._at[0] is not data or self._at[1] != start:
            self.close()
        row = self._row = self._row or _endless(data, start)
        for number in range(start, end):
            batch = next(row)
            self._at = data, number + 1
            yield batch


def _endless(data: TrainingSet, start: int) -> Generator[Batch]:
    """Pass after pass, from batch `start` of all on."""
    first, skipped = divmod(start, data.steps_per_epoch)
    yield from islice(data.epoch(first), skipped, None)
    for number in count(first + 1):
        yield from data.epoch(number)

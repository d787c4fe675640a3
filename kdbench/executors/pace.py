"""How long cells take here: from epochs that ran in this process, else from a guess that is made once for a place."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from kdbench.records import Store
from kdbench.suites.grid import Cell, digest

LATEST = 5  # epochs whose median counts: what else the machine does changes
Key = str


class Pace:
    """Seconds per epoch of each cell.

    Args:
        guess: seconds that an epoch of a cell is likely to take, asked for where nothing has been seen yet.
    """

    def __init__(self, guess: Callable[[Cell], float]) -> None:
        self._guess = guess
        self._guessed: dict[Key, float] = {}
        self._seen: dict[Key, dict[str, deque[float]]] = {}

    def saw(self, seconds: float, shares: Mapping[Cell, float], rough: bool = False) -> None:
        """Learn from an epoch in which these cells trained side by side.

        Args:
            seconds: that it took.
            shares: each cell's part in them, in any unit.
            rough: whether it took longer than others will (the first, which also loads): it is a guess only.
        """
        whole = sum(shares.values())
        if rough:
            self._guessed |= {_key(cell): seconds / len(shares) for cell in shares}
            return
        for cell, share in shares.items():
            seen = self._seen.setdefault(_key(cell), {}).setdefault(cell.method.label, deque(maxlen=LATEST))
            seen.append(seconds * share / whole if whole else seconds / len(shares))

    def epoch(self, cell: Cell, ask: bool = True) -> float | None:
        """Seconds that an epoch of the cell takes; a method not seen yet is as the others of its place.

        Args:
            ask: whether a guess may be made, which costs time; else the answer may be None.
        """
        key = _key(cell)
        medians = {label: statistics.median(seen) for label, seen in self._seen.get(key, {}).items()}
        if medians:
            return medians.get(cell.method.label, statistics.fmean(medians.values()))
        if key not in self._guessed and ask:
            self._guessed[key] = self._guess(cell)
        return self._guessed.get(key)

    def left(self, cell: Cell, store: Store) -> float:
        """Seconds until the cell is done, from where an earlier run left it."""
        return (self.epoch(cell) or 0.0) * (cell.recipe.epochs - store.epochs_done(cell.id))

    def total(self, cells: Sequence[tuple[Cell, Store]]) -> float | None:
        """Seconds until all are done, without any new guess: a place of which nothing is known is as the others.

        Returns:
            None if nothing is known of any.
        """
        known = {cell: seconds for cell, _ in cells if (seconds := self.epoch(cell, ask=False)) is not None}
        if not known:
            return None
        usual = statistics.fmean(known.values())
        return sum(known.get(cell, usual) * (cell.recipe.epochs - store.epochs_done(cell.id)) for cell, store in cells)


def _key(cell: Cell) -> Key:
    """Cells of one key cost the same, but for their method."""
    recipe = cell.recipe
    networks = [cell.pair.student, None if cell.role == "teacher" else cell.pair.teacher.network]
    shape = [recipe.batch_size, recipe.image_size, recipe.precision]
    return digest([cell.role, cell.config["dataset"], cell.config["protocol"], networks, shape])

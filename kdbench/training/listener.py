"""Who is told how far a cohort is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kdbench.suites.grid import Cell


class Listener(Protocol):
    """Who is told how far a cohort is; the terminal's progress display is one."""

    def cohort_started(self, cells: Sequence[Cell]) -> None: ...

    def step_done(self, epoch: int, epochs: int, step: int, steps: int) -> None: ...

    def epoch_done(self, cell: Cell, epoch: int, scores: dict[str, Any]) -> None: ...

    def cell_ended(self, cell: Cell, status: str, reason: str, scores: dict[str, Any]) -> None: ...

    def cohort_split(self, sizes: Sequence[int], reason: str) -> None: ...

    def notice(self, sentence: str) -> None: ...

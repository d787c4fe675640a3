"""The live display of a run: a bar over cells, a bar over the cohort's steps, and the latest scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from kdbench.suites.grid import Cell
from kdbench.tasks import metrics


class Display:
    """A `kdbench.training.cohort.Listener` for a terminal; where there is none it prints one line as each cell ends."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self.console = console
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._cells = Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=console)
        self._all = self._cells.add_task("cells", total=total, completed=done)
        self._steps = Progress(TextColumn("{task.description}", markup=False), BarColumn(), console=console)
        self._cohort = self._steps.add_task("", total=None)
        self._scores = Text()
        self._latest: dict[str, str] = {}
        self._live = Live(
            Group(self._cells, self._steps, self._scores), console=console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def cohort_started(self, cells: Sequence[Cell]) -> None:
        first = cells[0]
        what = f"teacher {first.pair}" if first.role == "teacher" else f"{first.pair.teacher}, seed {first.seed}"
        self._title = f"{first.dataset.name}: {what}"
        self._counted = "part" if first.recipe.updates else "epoch"
        self._latest.clear()
        self._steps.reset(self._cohort, description=self._title, total=None)

    def step_done(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        text = f"{self._title}, {self._counted} {epoch + 1}/{epochs}"
        self._steps.update(self._cohort, total=epochs * steps, completed=epoch * steps + step, description=text)

    def epoch_done(self, cell: Cell, epoch: int, scores: dict[str, Any]) -> None:
        primary = metrics.of(cell.dataset.task).primary
        if primary.name not in scores:
            return
        name = cell.method.label if cell.role == "student" else "teacher"
        self._latest[cell.id] = f"{name} {scores[primary.name]:.1f}"
        self._scores.plain = "  ".join(self._latest.values())

    def cell_ended(self, cell: Cell, status: str, reason: str, scores: dict[str, Any]) -> None:
        if cell.role == "student":
            self._cells.advance(self._all)
        what = (
            f"teacher {cell.pair}" if cell.role == "teacher" else f"{cell.method.label}, {cell.pair}, seed {cell.seed}"
        )
        if status == "done":
            primary = metrics.of(cell.dataset.task).primary
            outcome = f"{primary.title} {scores[primary.name]:.{primary.decimals}f}"
        else:
            outcome = f"{status.replace('_', ' ')}: {reason}"
        if status != "done" or cell.role == "teacher" or not self.console.is_terminal:
            self.console.print(f"{cell.dataset.name}: {what}: {outcome}", markup=False, highlight=False)

    def cohort_split(self, sizes: Sequence[int], reason: str) -> None:
        whole, parts = sum(sizes), " + ".join(str(size) for size in sizes)
        self.console.print(
            f"{self._title}: cohort of {whole} split into {parts}: {reason}", markup=False, highlight=False
        )

    def notice(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

"""What a run is likely to cost: seconds of its cells, from finished ones where there are any, else from a few steps."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from kdbench import tasks
from kdbench.errors import KDBenchError
from kdbench.hardware.clock import seconds
from kdbench.hardware.machine import hardware
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch
from kdbench.records import CellConfig, Record
from kdbench.suites.grid import Cell, cohorts


@dataclass(frozen=True)
class EpochCost:
    """Seconds of an epoch, or of a part of updates.

    Attributes:
        own: what a cell adds to its cohort.
        shared: batches and the teachers' passes, which a cohort has once.
    """

    own: float
    shared: float

    @property
    def alone(self) -> float:
        """Of a cell that trains alone."""
        return self.own + self.shared


def likely(
    cells: Sequence[Cell],
    records: Sequence[Record],
    data_root: Path | None,
    device: str | None,
    compile: str,
    threads: int | None,
    graphs: int = 0,
) -> float:
    """Seconds that students and trainings of teachers are likely to take, those of a cohort side by side.

    Raises:
        AbsentData: if nothing like them is finished and their data are not there.
    """
    known: dict[tuple[object, ...], EpochCost] = {}

    def cost(cell: Cell) -> EpochCost:
        what = _timed_like(cell.config) if cell.role == "student" else (cell.pair.student, cell.config["protocol"])
        key = (cell.role, cell.dataset.name, repr(what))
        if key not in known:
            found = _finished(cell, records)
            known[key] = found or measure(cell, numerics(cell, device, compile, threads, graphs), data_root)
        return known[key]

    total = 0.0
    for cohort in cohorts(cells):
        epochs = [(cost(cell), cell.recipe.length) for cell in cohort]
        total += sum(each.own * length for each, length in epochs)
        total += max(each.shared * length for each, length in epochs)
    return total


def guess(
    cell: Cell, records: Sequence[Record], data_root: Path | None, device: str | None, compile: str, threads: int | None
) -> float:
    """Seconds that an epoch of the cell is likely to take alone: from finished cells of this machine, else from a few
    steps.

    0 where neither is to be had: the run itself then says what is wrong, or measures.
    """
    try:
        chosen = numerics(cell, device, compile, threads)
        here = [record for record in records if record["provenance"]["hardware"] == hardware(chosen.device)]
        return (_finished(cell, here) or measure(cell, chosen, data_root)).alone
    except (KDBenchError, RuntimeError):
        return 0.0


def numerics(cell: Cell, device: str | None, compile: str, threads: int | None, graphs: int = 0) -> Numerics:
    """With which a run would train the cell."""
    from kdbench.training.precision import numerics_of  # not at the top: it loads timm

    return numerics_of(cell, device, compile, threads=threads, graphs=graphs)


def measure(cell: Cell, numerics: Numerics, data_root: Path | None, steps: int = 5) -> EpochCost:
    """What plain distillation would take, or a teacher's training, from a few steps on its data."""
    task = tasks.create(cell.dataset, cell.recipe, numerics, data_root, download=False)
    data = task.training_set(0, False)
    student = task.network(cell.pair.student).train()
    teacher = task.network(cell.pair.teacher.network).eval() if cell.role == "student" else None

    def learn(batch: Batch) -> None:
        with numerics.autocast():
            answer = student(batch.inputs).answer
        answer.sum().backward()

    def teach(batch: Batch) -> None:
        assert teacher is not None
        with numerics.autocast(), torch.no_grad():
            teacher(batch.inputs)

    batches = list(itertools.islice(data.epoch(0), steps))
    with _threads(numerics):
        own, shared = (
            statistics.median(seconds(partial(step, batch), numerics.device) for batch in batches) if there else 0.0
            for step, there in ((learn, True), (teach, teacher is not None))
        )
    count = cell.recipe.steps(0, data.steps_per_epoch)
    return EpochCost(own * count, shared * count)


@contextmanager
def _threads(numerics: Numerics) -> Iterator[None]:
    """As many threads as a run has, and then as many as before: a plan leaves the process as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(numerics.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finished(cell: Cell, records: Sequence[Record]) -> EpochCost | None:
    """The mean over the finished cells that take as long but for their methods; None if there is none, as of trainings
    of teachers there never is.
    """
    if cell.role != "student":
        return None
    wanted = _timed_like(cell.config)
    costs = [r["cost"] for r in records if r["status"] == "done" and _timed_like(r["cell"]) == wanted]
    if not costs:
        return None
    own, alone = (statistics.fmean(c[key] for c in costs) for key in ("own_seconds_per_epoch", "seconds_per_epoch"))
    return EpochCost(own, max(alone - own, 0.0))


def _timed_like(cell: CellConfig) -> tuple[object, ...]:
    """What an epoch's length, or that of a part of updates, depends on."""
    return cell["dataset"], cell["protocol"], cell["pair"], cell["recipe"].get("updates")

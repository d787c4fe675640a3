"""What a run would do and what it has done: `kdbench run --dry-run` and `kdbench status`."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from kdbench import tasks
from kdbench.board.select import Chosen, Stray, choose, point_of
from kdbench.board.usable import sound_record, usable
from kdbench.commands.options import remark
from kdbench.commands.unusable import records_of, tell
from kdbench.errors import KDBenchError
from kdbench.hardware.clock import seconds
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch
from kdbench.records import Record, Store
from kdbench.records.lock import is_locked
from kdbench.suites.fixed import refusal
from kdbench.suites.grid import Cell
from kdbench.training.teachers import Teachers

OUTDATED = ("older source", "other engine")
STATES = ("done", "running", "interrupted", "failed", "not applicable", "unusable", *OUTDATED, "missing")
TO_RUN = ("missing", "interrupted", *OUTDATED)


def outdated(chosen: Chosen) -> dict[tuple[str, str], Stray]:
    """The runs that were made and do not count, by their point and label: of an older source, or of another engine."""
    of_states = [stray for stray in chosen.strays if stray.state != "missing"]
    return {(point_of(s.record["cell"]), s.record["cell"]["method"]["label"]): s for s in of_states}


def state(cell: Cell, store: Store, running: bool, older: Mapping[tuple[str, str], Stray]) -> str:
    """One of `STATES`.

    Args:
        older: of `outdated`.
    """
    if store.has(cell.id):
        record = _read(store, cell)
        if not isinstance(record, dict):
            return "unusable"
        return "missing" if cell.fixed.refused(record) else record["status"].replace("_", " ")
    if store.interrupted(cell.id):
        return "running" if running else "interrupted"
    stray = older.get((point_of(cell.config), cell.method.label))
    return stray.state.replace("_", " ") if stray else "missing"


def _read(store: Store, cell: Cell) -> Record | str:
    """A cell's record, or what is wrong with it."""
    try:
        return sound_record(store.path(cell.id))
    except KDBenchError as error:
        return str(error)


def print_status(console: Console, cells: Sequence[Cell], store: Store, out: Path) -> None:
    """One row per pair with the count of cells in each state, then why some failed, do not apply or do not count."""
    running = is_locked(out)
    chosen = choose(usable(store.paths())[0], cells)
    older = outdated(chosen)
    states = {cell: state(cell, store, running, older) for cell in _distinct(cells)}
    _print_counts(console, states)
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell, found in states.items():
        if reason := _why(cell, found, store, older):
            reasons.setdefault((found, reason), []).append(f"{cell.method.label} on {cell.pair}, seed {cell.seed}")
    for (found, reason), where in reasons.items():
        more = f" and {len(where) - 1} more" if len(where) > 1 else ""
        console.print(f"{found}: {where[0]}{more}: {reason}", markup=False, highlight=False, soft_wrap=True)
    tell([str(_read(store, cell)) for cell, found in states.items() if found == "unusable"])
    done = [store.read(cell.id) for cell, found in states.items() if found == "done"]
    tell(choose(done, cells).sentences)
    remark(chosen.remarks)


def _why(cell: Cell, found: str, store: Store, older: Mapping[tuple[str, str], Stray]) -> str:
    """The reason of a cell's state, where it has one to tell."""
    if found in OUTDATED:
        return older[point_of(cell.config), cell.method.label].reason
    if found in ("failed", "not applicable"):
        return store.read(cell.id)["reason"]
    return refusal(store, cell) if found == "missing" else ""


def print_plan(
    console: Console,
    cells: Sequence[Cell],
    store: Store,
    *,
    teachers: Path,
    data_root: Path | None,
    device: str | None,
    compile: str,
    threads: int | None,
) -> None:
    """The cells by pair and state, the methods, the teachers still to train, and an estimate of the time left."""
    records = records_of(store)
    older = outdated(choose(records, cells))
    states = {cell: state(cell, store, False, older) for cell in _distinct(cells)}
    _print_counts(console, states)
    methods = dict.fromkeys(cell.method.label for cell in cells)
    console.print(f"methods: {', '.join(methods)}", markup=False, highlight=False)
    todo = [cell for cell, found in states.items() if found in TO_RUN]
    trainings = {t.id: t for cell in todo for t in Teachers(teachers).missing(cell)}
    for training in trainings.values():
        console.print(f"teacher to train: {training.pair} on {training.dataset.name}", markup=False, highlight=False)
    total = 0.0
    for group in _by_pair([*todo, *trainings.values()]):
        known = _seconds_per_epoch(group, records)
        try:
            numerics = _numerics(group[0], device, compile, threads)
            each = known if known is not None else measure(group[0], numerics, data_root)
        except KDBenchError as error:
            console.print(f"cost unknown: {error}", markup=False, highlight=False)
            return
        total += each * sum(cell.recipe.epochs for cell in group)
    kind = "from finished cells where there are any, else from a few timed steps of teacher and student"
    console.print(f"{len(todo)} of {len(states)} cells to run, about {_duration(total)} ({kind})", highlight=False)


def _numerics(cell: Cell, device: str | None, compile: str, threads: int | None) -> Numerics:
    from kdbench.training.precision import numerics_of  # not at the top: it loads timm

    return numerics_of(cell, device, compile, threads=threads)


def measure(cell: Cell, numerics: Numerics, data_root: Path | None, steps: int = 5) -> float:
    """Seconds an epoch of plain distillation would take, from a few steps on random data of the right shape."""
    task = tasks.create(cell.dataset, cell.recipe, numerics, data_root, download=False)
    data = task.training_set(0, False)
    student = task.network(cell.pair.student).train()
    teacher = task.network(cell.pair.teacher.network).eval() if cell.role == "student" else None

    def step(batch: Batch) -> None:
        with numerics.autocast():
            if teacher is not None:
                with torch.no_grad():
                    teacher(batch.inputs)
            answer = student(batch.inputs).answer
        answer.sum().backward()

    batches = itertools.islice(data.epoch(0), steps)
    with _threads(numerics):
        spent = [seconds(partial(step, batch), numerics.device) for batch in batches]
    return statistics.median(spent) * data.steps_per_epoch


@contextmanager
def _threads(numerics: Numerics) -> Iterator[None]:
    """As many threads as a run has, and then as many as before: a plan leaves the process as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(numerics.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds_per_epoch(group: Sequence[Cell], records: Sequence[Record]) -> float | None:
    wanted = (group[0].dataset.name, str(group[0].pair))
    if group[0].role != "student":
        return None
    times = [
        record["cost"]["seconds_per_epoch"]
        for record in records
        if record["status"] == "done" and (record["cell"]["dataset"], record["cell"]["pair"]) == wanted
    ]
    return statistics.fmean(times) if times else None


def _print_counts(console: Console, states: dict[Cell, str]) -> None:
    shown = [name for name in STATES if name in states.values()]
    table = Table("dataset", "pair", *shown)
    for group in _by_pair(list(states)):
        counts = Counter(states[cell] for cell in group)
        name = group[0].dataset.name + (" *" if group[0].dataset.protocol else "")
        table.add_row(name, str(group[0].pair), *(str(counts[s] or "-") for s in shown))
    console.print(table)


def _by_pair(cells: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.dataset.name, str(cell.config["protocol"]), str(cell.pair)), []).append(cell)
    return list(groups.values())


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.id: cell for cell in cells}.values())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

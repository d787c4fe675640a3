"""What a run would do and what it has done: `kdbench run --dry-run` and `kdbench status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from kdbench import registry
from kdbench.board.publishing.adopt import Arrivals
from kdbench.board.publishing.merge import Entry
from kdbench.board.runs import place_name, protocol_of
from kdbench.board.select import Chosen, Stray, choose, point_of
from kdbench.board.usable import sound_record, usable
from kdbench.commands import taking
from kdbench.commands.cost import likely, numerics
from kdbench.commands.durations import told
from kdbench.commands.options import remark
from kdbench.commands.unusable import records_of, tell
from kdbench.errors import AbsentData, KDBenchError, NotApplicable
from kdbench.records import Record, Store
from kdbench.records.lock import is_locked
from kdbench.registry.applies import check
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
    graphs: int = 0,
    sources: Sequence[Path] = (),
    beside: Mapping[str, Entry] = MappingProxyType({}),
) -> None:
    """The cells by pair and state, the methods, the teachers still to train, and an estimate of the time left.

    Args:
        sources: folders of `--from`; what they would bring counts as there.
        beside: records by id that count as there as well.
    """
    come = Arrivals()
    if sources:
        come = taking.look(
            sources,
            cells,
            store,
            Store(teachers),
            lambda cell: numerics(cell, device, compile, threads, graphs).describe(),
        )
        console.print(taking.told(sources, come), markup=False, highlight=False, soft_wrap=True)
    come.records |= beside
    records = [*records_of(store), *(entry.record for entry in come.records.values())]
    older = outdated(choose(records, cells))
    states = {cell: _state(cell, store, come, older) for cell in _distinct(cells)}
    _print_counts(console, states)
    methods = dict.fromkeys(cell.method.label for cell in cells)
    console.print(f"methods: {', '.join(methods)}", markup=False, highlight=False)
    todo = [cell for cell, found in states.items() if found in TO_RUN]
    for why, label in {_refused(cell): cell.method.label for cell in todo}.items():
        if why:
            whose = "" if why.startswith(label) else f"{label}: "
            console.print(f"cannot run: {whose}{why}", markup=False, highlight=False, soft_wrap=True)
    for spec in dict.fromkeys(spec for cell in todo for spec in cell.teachers if spec.sha256):
        said = f"teacher from a file: {spec}: {spec.weights}, sha256 {spec.sha256}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    trainings = {t.id: t for cell in todo for t in Teachers(teachers).missing(cell) if t.id not in come.weights}
    for training in trainings.values():
        console.print(f"teacher to train: {training.pair} on {training.dataset.name}", markup=False, highlight=False)
    try:
        total = likely([*todo, *trainings.values()], records, data_root, device, compile, threads, graphs)
    except AbsentData as error:
        console.print(f"cost unknown: {error}", markup=False, highlight=False, soft_wrap=True)
        return
    kind = "from finished cells where there are any, else from a few timed steps of teacher and student"
    console.print(f"{len(todo)} of {len(states)} cells to run, about {told(total)} ({kind})", highlight=False)


def _state(cell: Cell, store: Store, come: Arrivals, older: Mapping[tuple[str, str], Stray]) -> str:
    """One of `STATES`, with what would come."""
    arriving = come.records.get(cell.id)
    return arriving.record["status"].replace("_", " ") if arriving else state(cell, store, False, older)


def _refused(cell: Cell) -> str:
    """Why a cell will have no result, where that is known before it trains."""
    try:
        check(registry.get(cell.method.name), cell.dataset.task)
    except NotApplicable as verdict:
        return str(verdict)
    return cell.fault


def _print_counts(console: Console, states: dict[Cell, str]) -> None:
    shown = [name for name in STATES if name in states.values()]
    table = Table("dataset", "pair", *shown)
    for group in _by_pair(list(states)):
        counts = Counter(states[cell] for cell in group)
        name = place_name((group[0].dataset.name, protocol_of(group[0].config)))
        table.add_row(name, str(group[0].pair), *(str(counts[s] or "-") for s in shown))
    console.print(table)


def _by_pair(cells: Sequence[Cell]) -> list[list[Cell]]:
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        pair = cell.pair.student if cell.role == "teacher" else str(cell.pair)  # all trainings of one network
        data = cell.config["protocol"], cell.config.get("teacher_protocol")
        groups.setdefault((cell.role, cell.dataset.name, str(data), pair), []).append(cell)
    return list(groups.values())


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.id: cell for cell in cells}.values())

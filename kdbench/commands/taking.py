"""`--from`: records and teachers of other folders come to count in the one that is worked in, if all is comparable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kdbench.board.numerics import Used, decisive, row_of, unlike, used
from kdbench.board.publishing.adopt import Arrivals, arrivals, records_here, waiting_for
from kdbench.board.select import choose
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store
from kdbench.records.types import NumericsConfig
from kdbench.suites.fixed import refusal
from kdbench.suites.grid import BASELINES, Cell

OPTIONS = {
    "device": "--device {}",
    "threads": "--threads {}",
    "compile": "--compile {}",
    "cuda_graphs": "--graphs {:d}",
}


def look(
    sources: Sequence[Path],
    cells: Sequence[Cell],
    store: Store,
    teachers: Store,
    numerics: Callable[[Cell], NumericsConfig],
) -> Arrivals:
    """What the sources would bring.

    Args:
        numerics: those that a cell would be run in.

    Raises:
        KDBenchError: if anything is wrong with them, or what is left to train could not be compared with it.
    """
    found = arrivals(sources, cells, store, teachers)
    shown = choose(records_here(found, store), cells).records
    found.beside = bool(shown)
    todo = [cell for cell in cells if cell.id not in found.records and not _counts(store, cell)]
    if why := waiting_for(todo, found.absent):
        raise KDBenchError(why)
    if todo:
        _compare(todo, shown, numerics)
    return found


def _counts(store: Store, cell: Cell) -> bool:
    return store.has(cell.id) and not refusal(store, cell)


def _compare(todo: Iterable[Cell], records: Iterable[Record], numerics: Callable[[Cell], NumericsConfig]) -> None:
    """Refuse to train what would stand beside results of other numerics.

    Raises:
        KDBenchError: saying which numerics differ, and what to run instead.
    """
    there: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if record["status"] == "done":
            there.setdefault((*row_of(record)[:3], record["cell"]["seed"]), []).append(record)
    mine: dict[tuple[str, str], Used] = {}
    for cell in todo:
        *place, _ = row_of({"cell": cell.config})  # type: ignore[typeddict-item]
        beside = there.get((*place, cell.seed), [])
        if not beside:
            continue
        key = cell.cohort, cell.pair.student
        if key not in mine:
            mine[key] = decisive(dict(numerics(cell)))
        baselines = [record for record in beside if record["cell"]["method"]["name"] in BASELINES]
        for record in baselines or beside:
            if used(record) != mine[key]:
                raise KDBenchError(_refusal(cell, record, mine[key]))


def _refusal(cell: Cell, record: Record, mine: Used) -> str:
    ours, theirs = unlike(mine, used(record))
    wanted, have = ({"cuda_graphs": False, **dict(side)} for side in (used(record), mine))
    apart = [key for key in (*OPTIONS, "precision") if key in wanted and wanted[key] != have.get(key)]
    wanted["compile"] = "on" if wanted["compile"] else "off"
    options = " ".join(OPTIONS[key].format(wanted[key]) for key in apart if key in OPTIONS)
    alone = "leave --from out and run the methods to compare with here as well"
    # a precision given on the command line is another recipe, whose cells are other ones
    fix = alone if "precision" in apart else f"add {options}, or {alone}"
    return (
        f"{cell.method.label} on {cell.pair}, seed {cell.seed}, would run with {ours}, but "
        f"{record['cell']['method']['label']} there ran with {theirs}, so that the two could not be compared: {fix}"
    )


def told(sources: Sequence[Path], found: Arrivals) -> str:
    """What came, in a sentence."""
    records, teachers = found.count
    names = ", ".join(map(str, sources))
    new = f"{len(found.records)} and {len(found.teachers)} of them new here"
    other = "; no record is of the grid as it is run here: another recipe, other data, pairs or seeds, older methods"
    return f"from {names}: {records} records, {teachers} teachers; {new}{other if records and not found.beside else ''}"

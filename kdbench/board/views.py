"""What a suite's folder shows: of a working folder the grid at hand, of a published one what its card says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.board.engines import mark
from kdbench.board.publishing.audit import misplaced
from kdbench.board.results import ALL, Shown, Tables, expected, grid_rows, with_strays
from kdbench.board.runs import protocol_of
from kdbench.board.select import OLDER_SOURCE, OTHER_ENGINE, Stray, choose
from kdbench.records import Record
from kdbench.suites.grid import Cell, engine_of


@dataclass(frozen=True)
class View:
    """The runs of one suite that are looked at.

    Attributes:
        suite, about: its name and what it says of itself.
        records: those that belong in its tables.
        expected: the grid's cells, as the tables want them.
        shown: which methods.
        sentences: what should be known of records that are not shown, for people.
        published: whether it is a published folder, which only `kdbench publish` renews.
    """

    suite: str
    about: str
    records: Sequence[Record]
    expected: Sequence[Mapping[str, Any]]
    shown: Shown = ALL
    left_out: Sequence[str] = ()
    remarks: Sequence[str] = ()
    published: bool = False

    @property
    def tables(self) -> Tables:
        return Tables(self.records, self.expected, self.shown)


def of_cells(suite: str, about: str, cells: Sequence[Cell], records: Sequence[Record], shown: Shown = ALL) -> View:
    """The cells of a grid, and other methods that ran at its points."""
    chosen = choose(records, cells)
    rows = expected(cells, chosen.strays)
    return View(suite, about, chosen.records, rows, shown, chosen.sentences, chosen.remarks)


def everything(suite: str, records: Sequence[Record], shown: Shown = ALL) -> View:
    """Every record of a folder."""
    return View(suite, "every record of the folder, of whatever version of the suite", records, (), shown)


def of_card(
    card: Mapping[str, Any],
    records: Sequence[Record],
    shown: Shown = ALL,
    wanted: Callable[[Mapping[str, Any]], bool] = lambda row: True,
) -> View:
    """A published folder as its card has it, whatever its methods and the engine are by now.

    Args:
        card: of `kdbench.board.publishing.card.read_card`.
        records: of the folder.
        shown: which methods.
        wanted: says of a row (`kdbench.board.results.grid_rows`) whether its pair and seed are asked for.
    """
    suite = card["suite"]
    counted = [record for record in records if record["id"] not in card["left_out"]]
    aside = [record for record in records if record["id"] in card["left_out"]]
    labels = frozenset(card["shown"]) if "shown" in card and shown.labels is None else shown.labels
    rows = with_strays(grid_rows(suite), set_aside(suite, counted, aside))
    kept = [record for record in counted if wanted(record["cell"])]
    remarks = [f"it is shown as it was published, by {engine}"] if (engine := mark(kept)) else []
    narrowed = Shown(labels, shown.sees)
    return View(suite["name"], suite["description"], kept, [r for r in rows if wanted(r)], narrowed, (), remarks, True)


def set_aside(suite: Mapping[str, Any], counted: Sequence[Record], aside: Sequence[Record]) -> list[Stray]:
    """What the records that a published folder leaves out of its tables say of the runs that stand at their places: of
    another engine than those that count, or of an older source of their method. What is no cell of the suite, or ran
    under other numerics, says nothing.

    Args:
        suite: a `kdbench.board.results.suite_table`.
        counted, aside: the records in the tables and those out of them.
    """
    there = {_run(record) for record in counted}
    engines = {engine_of(record) for record in counted}
    found = {}
    for record in sorted(aside, key=lambda record: (record["provenance"]["finished_at"], record["id"])):
        if _run(record) in there or any(misplaced("", record, suite)):
            continue
        if (engine := engine_of(record)) not in engines:
            found[_run(record)] = Stray(record, f"run by engine {engine}: run again", OTHER_ENGINE)
        elif not _alike(record, counted):
            name = record["cell"]["method"]["name"]
            found[_run(record)] = Stray(record, f"run with an older source of {name}: run again", OLDER_SOURCE)
    return list(found.values())


def _run(record: Record) -> tuple[Any, ...]:
    cell = record["cell"]
    place = cell["dataset"], protocol_of(cell), cell["pair"]
    return (*place, cell["method"]["label"], cell["seed"])


def _alike(record: Record, counted: Sequence[Record]) -> bool:
    """Whether a record is of a source that counts under its label: then it is left out for its numerics."""
    method = record["cell"]["method"]
    others = (other["cell"]["method"] for other in counted)
    return any((other["label"], other["source"]) == (method["label"], method["source"]) for other in others)

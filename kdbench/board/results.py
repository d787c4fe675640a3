"""The tables of one suite's results, each made once: what commands, publishing and pages share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdbench import registry
from kdbench.board.columns import metrics_of
from kdbench.board.engines import mark
from kdbench.board.grid import STATES, Grid, Place, left_out, make_grid
from kdbench.board.maps.gains import Map, map_of
from kdbench.board.runs import protocol_of, runs_table
from kdbench.board.seen import CLASSES, planned_of, teachers_of
from kdbench.board.select import Stray, choose
from kdbench.board.statistics.ranks import CriticalDifference
from kdbench.board.tables import OVERALL, family, leaderboard_table, write_csv
from kdbench.board.unranked import stopped_early, without_ranks
from kdbench.board.wide import ranking, wide_table
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.suites.added import plain
from kdbench.suites.grid import BASELINES, Cell, Suite
from kdbench.suites.members import members_of
from kdbench.suites.tables import suite_of
from kdbench.tasks.metrics import Metrics

WHERE = ("task", "dataset", "protocol", "pair", "student")
LATER_WHERE = ("teacher_protocol",)  # where there is one


@dataclass(frozen=True)
class Shown:
    """Which methods tables show beside the baselines; ranks and corrections are always over all that ran.

    Attributes:
        labels: of methods; None: all.
        sees: one of `kdbench.board.seen.CLASSES`; empty: all.
    """

    labels: frozenset[str] | None = None
    sees: str = ""

    def of(self, grid: Grid) -> list[str]:
        """The labels that are shown of a grid."""
        baselines = [grid.index(name) for name in BASELINES]
        return [
            label
            for m, label in enumerate(grid.methods)
            if m in baselines or ((self.labels is None or label in self.labels) and self.sees in ("", grid.classes[m]))
        ]


ALL = Shown()


class Tables:
    """The tables of one suite.

    Args:
        records: those that belong in them.
        expected: the grid's cells (`grid_rows`); those without a record are shown as missing.
        shown: which methods they show.
    """

    def __init__(
        self, records: Sequence[Record], expected: Iterable[Mapping[str, Any]] = (), shown: Shown = ALL
    ) -> None:
        self.records = sorted(records, key=lambda record: record["id"])
        self.expected = list(expected)
        self.shown_methods = shown

    @staticmethod
    def of(cells: Sequence[Cell], records: Sequence[Record]) -> Tables:
        """Of these cells, and of the records among all of a folder that belong beside them."""
        chosen = choose(records, cells)
        return Tables(chosen.records, expected(cells, chosen.strays))

    @cached_property
    def metrics(self) -> Metrics:
        """Of the records' task.

        Raises:
            KDBenchError: if it is unknown, or they are of several.
        """
        return metrics_of(self.records, self.expected)

    @cached_property
    def all_runs(self) -> pd.DataFrame:
        """The runs of all methods."""
        return runs_table(self.records, self.expected)

    @cached_property
    def grid(self) -> Grid:
        """The runs of all methods as arrays."""
        return make_grid(self.all_runs, self.metrics, self.expected)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """runs.csv."""
        return self._narrowed(self.all_runs)

    def _narrowed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of the methods that are shown."""
        if self.shown_methods == ALL:
            return table
        return table[table["method"].isin(self.shown_methods.of(self.grid))].reset_index(drop=True)

    @cached_property
    def counted(self) -> Grid:
        """The runs that overall rows are over."""
        return self.grid

    @cached_property
    def all_long(self) -> pd.DataFrame:
        """The rows of leaderboard_long.csv, of all methods."""
        return self._told(leaderboard_table(self.grid, self.counted))

    @cached_property
    def all_wide(self) -> pd.DataFrame:
        """The rows of leaderboard.csv, of all methods."""
        return self._told(wide_table(self.grid, self.counted))

    def _told(self, table: pd.DataFrame) -> pd.DataFrame:
        return without_ranks(table) if stopped_early(self.records) else table

    @property
    def long(self) -> pd.DataFrame:
        """leaderboard_long.csv."""
        return self._narrowed(self.all_long)

    @property
    def wide(self) -> pd.DataFrame:
        """leaderboard.csv."""
        return self._narrowed(self.all_wide)

    def compared(self, place: Place | None = None) -> int:
        """For how many methods differences to kd are corrected: at a place (its pair may be `overall`), or in the
        suite's table.
        """
        here = [place is None or (p[:2] == place[:2] and place[2] in (OVERALL, p[2])) for p in self.grid.places]
        return family(self.grid.part(np.array(here)), BASELINES[1])

    @cached_property
    def rankings(self) -> dict[str, CriticalDifference]:
        """The data of critical-difference diagrams, of those of `kdbench.board.seen.CLASSES` that have two complete
        methods.
        """
        if stopped_early(self.records):
            return {}
        classes = np.array(self.grid.classes)
        made = {name: ranking(self.counted.only(classes == name)) for name in CLASSES}
        return {name: data for name, data in made.items() if data is not None}

    @cached_property
    def engine(self) -> str:
        """`engine 1` where records are of another engine than the present."""
        return mark(self.records)

    @cached_property
    def map(self) -> Map | None:
        """Of what distillation gains, if the places differ in one number or two only."""
        try:
            return map_of(self)
        except KDBenchError:
            return None

    @property
    def states(self) -> dict[str, int]:
        """How many runs are in which state, of all methods; those in none are left out."""
        counts = self.all_runs["status"].value_counts()
        return {state: int(counts[state]) for state in ("done", *STATES) if state in counts}

    @property
    def note(self) -> str:
        """What `common` leaves out, in a sentence or two; nothing if every method finished everything."""
        return left_out(self.grid, self.counted)

    def common(self) -> Tables:
        """The same, ranked over the places (or else seeds) that all methods finished.

        Raises:
            KDBenchError: if there are none.
        """
        made = Tables(self.records, self.expected, self.shown_methods)
        made.metrics, made.all_runs, made.grid = self.metrics, self.all_runs, self.grid
        made.counted = self.grid.common()
        return made

    @property
    def files(self) -> dict[str, pd.DataFrame]:
        """The CSV files, by name."""
        return {"leaderboard.csv": self.wide, "leaderboard_long.csv": self.long, "runs.csv": self.runs}

    def write(self, folder: Path) -> None:
        """Write the CSV files.

        Raises:
            KDBenchError: if the folder cannot be written or the disk is full.
        """
        for name, table in self.files.items():
            write_csv(table, folder / name)


def suite_table(suite: Suite) -> dict[str, Any]:
    """A suite with every default filled in, as plain values; `numerics` has what the suite fixes, and is there if it
    fixes something.
    """
    table = plain(dataclasses.replace(suite, tuner=None))
    del table["numerics"]
    if suite.numerics.table:
        table["numerics"] = suite.numerics.table
    for entry, pair in zip(table["pairs"], suite.pairs, strict=True):
        entry["name"] = str(pair)
    methods = []
    for spec in suite.methods:
        info = registry.get(spec.name).info
        values = plain(registry.resolve(spec.name, dict(spec.hyperparameters)))
        own = {"seeds": plain(spec.seeds)} if spec.seeds else {}
        entry = {"name": info.name, "label": spec.label, "family": info.family, "hyperparameters": values, **own}
        methods.append({**entry, "teachers": members_of(spec).sees})
    return {**table, "methods": methods}


def grid_rows(suite: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of a `suite_table` as the tables want them, tuned rows among them."""
    methods = {entry["label"]: entry for entry in suite["methods"]}
    pairs = {entry["name"]: entry for entry in suite["pairs"]}
    grid = suite_of(suite)
    rows, seeds = [], dict[tuple[Any, ...], list[int]]()
    for dataset, pair, method, seed in grid.points():
        data = plain(dataset)
        cell = {"dataset": data.pop("name"), **data, "pair": str(pair), "student": pair.student, "seed": seed}
        entry = methods[method.label]
        sees = {"teachers": planned_of(entry, pairs[str(pair)])}
        rows.append(_grid_row(suite["name"], {**cell, "method": {**entry, **sees}}))
        seeds.setdefault((cell["dataset"], protocol_of(cell), cell["pair"], method.name), []).append(seed)
    tuned = [
        {key: row[key] for key in (*WHERE, *LATER_WHERE, "label", "name", "family", "trials") if key in row}
        | {"suite": suite["name"], "seed": seed, "teachers": planned_of(row, pairs[row["pair"]])}
        for row in suite.get("tuned", ())
        for seed in grid.tuned_seeds(seeds.get((row["dataset"], protocol_of(row), row["pair"], row["name"]), ()))
    ]
    return tuned + rows


def expected(cells: Iterable[Cell], strays: Iterable[Stray] = ()) -> list[dict[str, Any]]:
    """Cells as the tables want them; what stands at the place of a stray has its state, and says why."""
    rows = [_grid_row(cell.suite, cell.config) for cell in cells]
    return with_strays(rows, strays)


def with_strays(rows: Iterable[dict[str, Any]], strays: Iterable[Stray]) -> list[dict[str, Any]]:
    """Rows of `grid_rows`, with those of runs that were made and do not count in their places."""
    made = list(rows)
    made += [
        {**_grid_row(record["suite"], record["cell"]), "reason": reason, "state": state}
        for record, reason, state in strays
    ]
    return list({_place(row): row for row in made}.values())


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["dataset"], protocol_of(row), row["pair"], row["label"], row["seed"]


def _grid_row(suite: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """One cell, from what a record's `cell` says of it."""
    where = {name: cell[name] for name in (*WHERE, "seed")}
    where |= {name: cell[name] for name in LATER_WHERE if name in cell}
    own = {name: cell["method"][name] for name in ("label", "name", "family")}
    tuning = cell["method"].get("tuning")
    trials = {"trials": len(tuning["trials"])} if tuning else {}
    return {"suite": suite, **where, **own, "teachers": teachers_of(cell), **trials}

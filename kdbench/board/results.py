"""The tables of one suite's results, each made once: what commands, publishing and pages share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench import registry
from kdbench.board.columns import metrics_of
from kdbench.board.grid import Grid, left_out, make_grid
from kdbench.board.runs import protocol_of, runs_table
from kdbench.board.select import choose
from kdbench.board.statistics.ranks import CriticalDifference
from kdbench.board.tables import leaderboard_table, write_csv
from kdbench.board.wide import ranking, wide_table
from kdbench.records import Record
from kdbench.suites.added import plain
from kdbench.suites.grid import Cell, Suite
from kdbench.suites.tables import suite_of
from kdbench.tasks.metrics import Metrics

WHERE = ("task", "dataset", "protocol", "pair", "student")
LATER_WHERE = ("teacher_protocol",)  # where there is one


class Tables:
    """The tables of one suite.

    Args:
        records: those that belong in them.
        expected: the grid's cells (`grid_rows`); those without a record are shown as missing.
    """

    def __init__(self, records: Sequence[Record], expected: Iterable[Mapping[str, Any]] = ()) -> None:
        self.records = sorted(records, key=lambda record: record["id"])
        self.expected = list(expected)

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
    def runs(self) -> pd.DataFrame:
        """runs.csv."""
        return runs_table(self.records, self.expected)

    @cached_property
    def grid(self) -> Grid:
        """All runs as arrays."""
        return make_grid(self.runs, self.metrics, self.expected)

    @cached_property
    def counted(self) -> Grid:
        """The runs that overall rows are over."""
        return self.grid

    @cached_property
    def long(self) -> pd.DataFrame:
        """leaderboard_long.csv."""
        return leaderboard_table(self.grid, self.counted)

    @cached_property
    def wide(self) -> pd.DataFrame:
        """leaderboard.csv."""
        return wide_table(self.grid, self.counted)

    @cached_property
    def ranking(self) -> CriticalDifference | None:
        """The data of a critical-difference diagram, if there are two complete methods."""
        return ranking(self.counted)

    @property
    def note(self) -> str:
        """What `common` leaves out, in a sentence or two; nothing if every method finished everything."""
        return left_out(self.grid, self.counted)

    def common(self) -> Tables:
        """The same, ranked over the places (or else seeds) that all methods finished.

        Raises:
            KDBenchError: if there are none.
        """
        made = Tables(self.records, self.expected)
        made.metrics, made.runs, made.grid = self.metrics, self.runs, self.grid
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
    table = plain(suite)
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
        methods.append(
            {"name": info.name, "label": spec.label, "family": info.family, "hyperparameters": values, **own}
        )
    return {**table, "methods": methods}


def grid_rows(suite: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of a `suite_table` as the tables want them, tuned rows among them."""
    methods = {entry["label"]: entry for entry in suite["methods"]}
    rows, seeds = [], dict[tuple[Any, ...], list[int]]()
    for dataset, pair, method, seed in suite_of(suite).points():
        data = plain(dataset)
        cell = {"dataset": data.pop("name"), **data, "pair": str(pair), "student": pair.student, "seed": seed}
        rows.append(_grid_row(suite["name"], {**cell, "method": methods[method.label]}))
        seeds.setdefault((cell["dataset"], protocol_of(cell), cell["pair"], method.name), []).append(seed)
    tuned = [
        {key: row[key] for key in (*WHERE, *LATER_WHERE, "label", "name", "family", "trials") if key in row}
        | {"suite": suite["name"], "seed": seed}
        for row in suite.get("tuned", ())
        for seed in dict.fromkeys(seeds.get((row["dataset"], protocol_of(row), row["pair"], row["name"]), ()))
    ]
    return tuned + rows


def expected(cells: Iterable[Cell], strays: Iterable[tuple[Record, str]] = ()) -> list[dict[str, Any]]:
    """Cells as the tables want them; what stands at the place of a stray says why it is missing."""
    rows = [_grid_row(cell.suite, cell.config) for cell in cells]
    rows += [{**_grid_row(record["suite"], record["cell"]), "reason": reason} for record, reason in strays]
    return list({_place(row): row for row in rows}.values())


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["dataset"], protocol_of(row), row["pair"], row["label"], row["seed"]


def _grid_row(suite: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """One cell, from what a record's `cell` says of it."""
    where = {name: cell[name] for name in (*WHERE, "seed")}
    where |= {name: cell[name] for name in LATER_WHERE if name in cell}
    own = {name: cell["method"][name] for name in ("label", "name", "family")}
    tuning = cell["method"].get("tuning")
    return {"suite": suite, **where, **own, **({"trials": len(tuning["trials"])} if tuning else {})}

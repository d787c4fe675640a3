"""The tables that commands write beside the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdbench.board.runs import runs_table
from kdbench.board.select import current, expected
from kdbench.board.tables import leaderboard_table, write_csv
from kdbench.board.wide import common_note, wide_table
from kdbench.records import Record, Store
from kdbench.suites.grid import Cell

FILES = ("leaderboard.csv", "leaderboard_long.csv", "runs.csv")
COMMON = "leaderboard_common.csv"

Grid = Sequence[Mapping[str, Any]]


def read(cells: Sequence[Cell], store: Store) -> tuple[list[Record], Grid]:
    """The records that count for these cells, each read once, and the grid that the tables are made over."""
    return current(store.all(), cells), expected(cells)


def write(records: Sequence[Record], grid: Grid, store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write `FILES`; returns the long and the wide leaderboard."""
    long, wide = leaderboard_table(records, grid), wide_table(records, grid)
    for name, table in zip(FILES, (wide, long, runs_table(records, grid)), strict=True):
        write_csv(table, store.beside(name))
    return long, wide


def write_common(records: Sequence[Record], grid: Grid, store: Store) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Rank over what all methods finished; returns the long and the wide leaderboard, and what was left out."""
    long, wide = leaderboard_table(records, grid, common=True), wide_table(records, grid, common=True)
    write_csv(wide, store.beside(COMMON))
    return long, wide, common_note(records, grid)


def failed(records: Sequence[Record], cells: Sequence[Cell]) -> int:
    """How many of the cells failed."""
    planned = {cell.id for cell in cells}
    return sum(record["status"] == "failed" for record in records if record["id"] in planned)

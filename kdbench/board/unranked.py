"""Boards without ranks: of trainings that stopped early, each by a held-out score and so after a time of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdbench.records import Record

STOPPED = "stopped early by a held-out score, not ranked"
RANKS = ("rank", "mean_rank", "borda")


def stopped_early(records: Sequence[Record]) -> bool:
    """Whether runs of these are not ranked."""
    return any(record["cell"].get("recipe", {}).get("patience") for record in records)


def without_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """The table with no method before another, and each row's remark that says why."""
    table = table.copy()
    for name in RANKS:
        if name in table:
            table[name] = np.nan
    table["remark"] = [f"{said}; {STOPPED}" if said else STOPPED for said in table["remark"].fillna("")]
    return table

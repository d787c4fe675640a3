"""The columns that are named after a task's primary score, spelled once.

Code of the board calls them by what they are: `score`, `best_score`, `teacher_score` (of runs), `score_mean`,
`score_std`, `best_score_mean` (of leaderboards). In files they are called after the metric, whose name stands in the
place of `score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from kdbench.records import Record
from kdbench.tasks.metrics import Metrics, of_tasks

NAMES = ("score", "best_score", "teacher_score", "score_mean", "score_std", "best_score_mean")


def metrics_of(records: Iterable[Record], expected: Iterable[Mapping[str, Any]] = ()) -> Metrics:
    """The metrics of the task that records, and the grid's cells (`kdbench.board.results.grid_rows`), are of.

    Raises:
        KDBenchError: if the task is unknown, or they are of several.
    """
    return of_tasks([*(record["cell"]["task"] for record in records), *(cell["task"] for cell in expected)])


def filed_as(name: str, metrics: Metrics) -> str:
    """How a file calls one of `NAMES`; any other name is called what it is."""
    return name.replace("score", metrics.primary.name) if name in NAMES else name


def as_filed(frame: pd.DataFrame, metrics: Metrics) -> pd.DataFrame:
    """A table whose columns are `NAMES` and others, with the names that its file has."""
    return frame.rename(columns={name: filed_as(name, metrics) for name in NAMES})


def as_meant(frame: pd.DataFrame, metrics: Metrics) -> pd.DataFrame:
    """A table as its file has it, with `NAMES` instead."""
    return frame.rename(columns={filed_as(name, metrics): name for name in NAMES})


def rows_of(frame: pd.DataFrame, metrics: Metrics) -> list[dict[str, Any]]:
    """The rows of a table as its file has it, by `NAMES` and the other columns."""
    records = as_meant(frame, metrics).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in records]

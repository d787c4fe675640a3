"""Reported against measured: a verdict for each value of a paper's table.

A value is `reproduced` if it lies in the 95 % interval around our mean: Student's, or, where the paper gives a standard
deviation and the number of runs behind it, Welch's of the difference of the two means. Else our mean is `above` or
`below` it. A paper that takes the best epoch on the test set is compared with our best epochs, one that takes the last
with our last, and one that does not say with both: its value may lie anywhere from the lower end of the last epochs'
interval to the upper end of the best epochs' (where lower is better, from the best epochs' lower end to the last's
upper end). Everything else is `not run` or `not comparable`, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.board.columns import as_filed
from kdbench.board.statistics.intervals import agreeing, summary
from kdbench.papers.reported import TEACHER, Reported
from kdbench.papers.table import Entry
from kdbench.records import Record
from kdbench.tasks.metrics import Metrics, of_tasks

VERDICTS = ("reproduced", "above", "below", "not run", "not comparable")
COLUMNS = (
    *(
        "dataset",
        "pair",
        "method",
        "measured_as",
        "settings",
        "verdict",
        "reason",
        "reported",
        "reported_std",
        "reported_n",
    ),
    *(
        "selection",
        "measured",
        "n",
        "ci95_low",
        "ci95_high",
        "difference",
        "score_mean",
        "score_std",
        "best_score_mean",
    ),
    *("paper", "source", "recipe", "note"),
)


@dataclass(frozen=True)
class Judgement:
    """The interval in which a reported value counts as reproduced, and where it lies."""

    low: float
    high: float
    verdict: str


def judge(reported: Reported, last: Sequence[float], best: Sequence[float], sign: int = 1) -> Judgement:
    """Compare a value with the scores of our last and of our best epochs, `[n]` each, n >= 2; `sign` is -1 where lower
    is better.
    """
    spread = (reported.std if reported.std is not None else math.nan, reported.n or 0)
    of_last, of_best = agreeing(last, *spread), agreeing(best, *spread)
    known = {"last": (of_last, of_last), "best": (of_best, of_best)}
    worse, better = known.get(reported.selection, (of_last, of_best))
    low, high = (worse[0], better[1]) if sign > 0 else (better[0], worse[1])
    if low <= reported.value <= high:
        return Judgement(low, high, "reproduced")
    return Judgement(low, high, "above" if reported.value < low else "below")


def metrics_of_entries(entries: Sequence[Entry]) -> Metrics:
    """Of the task that a paper's table is of.

    Raises:
        KDBenchError: if the task is unknown, or there are several.
    """
    return of_tasks(entry.reported.task for entry in entries if entry.reported is not None)


def reproduction_table(entries: Sequence[Entry], records: Sequence[Record]) -> pd.DataFrame:
    """One row per entry, in their order; the columns are explained in docs/papers.md. There is a column `metric` only
    where a value is not of the primary score.
    """
    metrics = metrics_of_entries(entries)
    by_id = {record["id"]: record for record in records}
    teachers: dict[tuple[str, str], Mapping[str, Any]] = {
        (entry.dataset, entry.pair): by_id[cell.id]["teachers"][0]
        for entry in entries
        for cell in entry.cells
        if cell.id in by_id and by_id[cell.id].get("teachers")
    }
    rows = [_row(entry, by_id, teachers, metrics) for entry in entries]
    columns = list(COLUMNS)
    if any(row["metric"] != metrics.primary.name for row in rows):
        columns.insert(columns.index("method") + 1, "metric")
    return as_filed(pd.DataFrame(rows, columns=columns), metrics)


def _row(
    entry: Entry,
    by_id: dict[str, Record],
    teachers: Mapping[tuple[str, str], Mapping[str, Any]],
    metrics: Metrics,
) -> dict[str, Any]:
    found = [by_id[cell.id] for cell in entry.cells if cell.id in by_id]
    done: list[Mapping[str, Any]] = [record["result"] for record in found if record["status"] == "done"]
    primary, reported = metrics.primary, entry.reported
    score = reported.score if reported is not None else primary
    last, best = (_scores(done, name) for name in (primary.name, metrics.best_name))
    if entry.method == TEACHER and (entry.dataset, entry.pair) in teachers:
        done = [teachers[entry.dataset, entry.pair]]
        last = best = _scores(done, primary.name)
    row: dict[str, Any] = {"dataset": entry.dataset, "pair": entry.pair, "method": entry.method, "metric": score.name}
    if entry.cells:
        spec = entry.cells[0].method
        row |= {"measured_as": spec.label, "settings": ", ".join(f"{k}={v}" for k, v in spec.hyperparameters.items())}
    ours, ours_best = summary(last), summary(best)
    row |= {"score_mean": ours.mean, "score_std": ours.std, "best_score_mean": ours_best.mean}
    if score.name != primary.name:  # curves keep no best epoch of it
        last = best = _scores(done, score.name)
        ours = ours_best = summary(last)
    row |= {"n": ours.n, "measured": ours.mean, "ci95_low": ours.low, "ci95_high": ours.high}
    row |= {"verdict": "", "reason": _reason(entry, found, len(last))}
    if reported is None:
        return row
    row |= {"reported": reported.value, "reported_std": reported.std, "reported_n": reported.n}
    row |= {key: getattr(reported, key) for key in ("selection", "paper", "source", "recipe", "note")}
    row["measured"] = ours_best.mean if reported.selection == "best" else ours.mean
    row["difference"] = row["measured"] - reported.value
    unlike = f"the best epoch by {score.title} is not recorded" if _unlike(reported, metrics) else ""
    if not last:
        row["verdict"] = "not run"
    elif entry.obstacle or unlike or ours.n < 2:
        row["verdict"] = "not comparable"
        row["reason"] = entry.obstacle or unlike or "one run has no interval"
    else:
        found_in = judge(reported, last, best, score.sign)
        row |= {"ci95_low": found_in.low, "ci95_high": found_in.high, "verdict": found_in.verdict}
    return row


def _scores(results: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A score of several runs, without those that have none."""
    return [result[name] for result in results if result.get(name) is not None]


def _unlike(reported: Reported, metrics: Metrics) -> bool:
    """Whether a value is of the best epoch by a score whose best epoch no record keeps."""
    return reported.selection == "best" and reported.metric != metrics.primary.name


def _reason(entry: Entry, found: Sequence[Record], done: int) -> str:
    """What a reader must know of the runs themselves."""
    reasons = sorted({record["reason"] for record in found if record["reason"]})
    missing = f"{done} of {len(entry.cells)} seeds are done" if 0 < done < len(entry.cells) else ""
    unlisted = "not in the paper's table" if entry.reported is None else ""
    return "; ".join(part for part in (missing, *reasons, entry.obstacle, unlisted) if part)

"""The table of a suite: one row per method, its aggregates over all places, and its mean at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdbench.board import comparable
from kdbench.board.columns import as_filed
from kdbench.board.grid import STATES, Grid
from kdbench.board.runs import CORPUS, SOMETIMES, place_name
from kdbench.board.seen import CLASSES
from kdbench.board.statistics import aggregates
from kdbench.board.statistics.intervals import SURE, summary
from kdbench.board.statistics.ranks import CriticalDifference, borda, critical_difference, place_ranks
from kdbench.board.tables import (
    DIFFERENCE,
    TIME,
    correct,
    difference_row,
    gains,
    gap_row,
    mean_of,
    ranked,
    state_row,
    with_time,
)
from kdbench.suites.grid import BASELINES


def wide_table(whole: Grid, grid: Grid, baselines: Sequence[str] = BASELINES) -> pd.DataFrame:
    """One row per method: rank, states, aggregates over all places, then one column per place with the mean score.

    A method that lacks a run has no aggregate and no rank; the others are ranked among those that see as many teachers.
    docs/records.md explains every column.

    Args:
        whole: all runs: those of the places' columns.
        grid: the runs that the aggregates are over: all, or what all methods finished (`Grid.common`); `remark` then
            says how many that are.
        baselines: the plain student's name, then kd's.
    """
    student, kd = baselines
    rows = [state_row(whole, m, True, grid if grid.complete[m] else whole) for m in range(len(whole.methods))]
    told = gains(whole, grid, kd)
    for name in CLASSES:
        complete = np.flatnonzero(grid.complete & (np.array(grid.classes) == name))
        if not len(complete):
            continue
        by_place = grid.means[complete].T  # [places, methods]
        ranks, points = place_ranks(by_place).mean(0), borda(by_place)
        for m, rank, count in zip(complete.tolist(), ranks.tolist(), points.tolist(), strict=True):
            rows[m] |= {"mean_rank": rank, "borda": count} | _aggregates(
                grid, m, (student, kd), told[m], rows[m]["remark"]
            )
    correct(rows, baselines, whole)
    for m, row in enumerate(rows):
        row |= {place_name(place): summary(_done(whole, m, p)).mean for p, place in enumerate(whole.places)}
    columns = ["rank", "method", "name", "family", "teachers", "n", *STATES]
    columns += ["score_mean", "score_std", "mean_rank", "borda"]
    columns += ["iqm", "iqm_ci95_low", "iqm_ci95_high"]
    columns += ["probability_of_improvement", "probability_of_improvement_ci95_low"]
    columns += ["probability_of_improvement_ci95_high", "ari", "wins", "ties", "losses"]
    columns += [f"vs_{baseline}{part}" for baseline in baselines for part in DIFFERENCE]
    columns += ["gap_closed", *TIME, "extra_parameters"]
    columns += [*(name for name in SOMETIMES if name in whole.values), "remark"]
    columns += [place_name(place) for place in whole.places]
    return as_filed(pd.DataFrame(ranked(rows, whole.metrics.primary.sign), columns=columns), whole.metrics)


def _aggregates(grid: Grid, m: int, baselines: tuple[str, str], told: np.ndarray, remark: str) -> dict[str, Any]:
    """Everything over all places, of a method that finished them, and what is to say beside `remark`.

    Args:
        told: where it is better and worse than kd (`gains`), `[places]`.
    """
    student, kd = baselines
    scores, (s, k) = grid.scores[m][grid.whole_seeds(m)], (grid.index(student, m), grid.index(kd, m))
    over_seeds = summary(scores.mean(1).tolist())
    low, high = aggregates.stratified_bootstrap(aggregates.interquartile_mean, scores)
    row: dict[str, Any] = {"score_mean": over_seeds.mean, "score_std": over_seeds.std, "remark": remark}
    row |= {"iqm": float(aggregates.interquartile_mean(scores)), "iqm_ci95_low": low, "iqm_ci95_high": high}
    row |= difference_row(grid, m, student, True) | difference_row(grid, m, kd, True)
    row |= gap_row(grid, m, student, True)
    row |= {
        name: mean_of(grid, name, m) for name in ("extra_parameters", "trial_seconds", CORPUS) if name in grid.values
    }
    row = with_time(comparable.with_remark(row, grid, m, (student, kd)), grid, m)
    if k is None or k == m or not grid.complete[k] or comparable.others(grid, m, k).any():
        return row
    better, runs = aggregates.probability_of_improvement, [grid.merits[i][grid.whole_seeds(i)] for i in (m, k)]
    low, high = aggregates.stratified_bootstrap(better, *runs)
    row |= {"probability_of_improvement": float(better(*runs))}
    row |= {"probability_of_improvement_ci95_low": low, "probability_of_improvement_ci95_high": high}
    row |= {"wins": int((told > 0).sum()), "ties": int((told == 0).sum()), "losses": int((told < 0).sum())}
    if s is not None and s != m and _gained(grid, kd, student):
        means = (grid.means[i] for i in (m, k, s))
        row["ari"] = aggregates.average_relative_improvement(*means)
    return row


def _gained(grid: Grid, kd: str, student: str) -> bool:
    """Whether kd is better than the student at every place, each a test by itself: shares of a gain that may be none
    say nothing.
    """
    k, sign = grid.index(kd), grid.metrics.primary.sign
    alone = (
        [difference_row(grid.part(np.array([p])), k, student, False) for p in range(len(grid.places))]
        if k is not None
        else []
    )
    return bool(alone) and all(
        row.get(f"vs_{student}_p", 1.0) < SURE and sign * row[f"vs_{student}"] > 0 for row in alone
    )


def _done(grid: Grid, m: int, p: int) -> list[float]:
    return grid.scores[m, :, p][grid.states[m, :, p] == "done"].tolist()


def ranking(grid: Grid) -> CriticalDifference | None:
    """The data of a critical-difference diagram: the complete methods, ranked at every place by their mean over seeds.

    At a single place its seeds are ranked instead. None if fewer than two methods are complete.
    """
    complete = np.flatnonzero(grid.complete)
    if len(complete) < 2:
        return None
    shared = (grid.states[complete] == "done").all((0, 2))  # seeds
    blocks = grid.means[complete].T if len(grid.places) > 1 else grid.merits[complete][:, shared, 0].T
    if not len(blocks):
        return None
    return critical_difference([grid.methods[m] for m in complete], blocks)

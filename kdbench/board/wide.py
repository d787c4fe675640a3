"""The table of a suite: one row per method, its aggregates over all places, and its mean at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdbench.board import comparable
from kdbench.board.columns import as_filed
from kdbench.board.grid import STATES, Grid
from kdbench.board.runs import place_name
from kdbench.board.seen import CLASSES
from kdbench.board.statistics import aggregates
from kdbench.board.statistics.intervals import summary
from kdbench.board.statistics.ranks import CriticalDifference, borda, critical_difference, place_ranks
from kdbench.board.tables import DIFFERENCE, correct, difference_row, mean_of, ranked, relative_row, state_row
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
    for name in CLASSES:
        complete = np.flatnonzero(grid.complete & (np.array(grid.classes) == name))
        if not len(complete):
            continue
        by_place = grid.means[complete].T  # [places, methods]
        ranks, points = place_ranks(by_place).mean(0), borda(by_place)
        for m, rank, count in zip(complete.tolist(), ranks.tolist(), points.tolist(), strict=True):
            rows[m] |= {"mean_rank": rank, "borda": count} | _aggregates(grid, m, student, kd, rows[m]["remark"])
    correct(rows, baselines)
    for m, row in enumerate(rows):
        row |= {place_name(place): summary(_done(whole, m, p)).mean for p, place in enumerate(whole.places)}
    columns = ["rank", "method", "name", "family", "teachers", "n", *STATES]
    columns += ["score_mean", "score_std", "mean_rank", "borda"]
    columns += ["iqm", "iqm_ci95_low", "iqm_ci95_high"]
    columns += ["probability_of_improvement", "probability_of_improvement_ci95_low"]
    columns += ["probability_of_improvement_ci95_high", "ari", "wins", "ties", "losses"]
    columns += [f"vs_{baseline}{part}" for baseline in baselines for part in DIFFERENCE]
    columns += ["gap_closed", "time_ratio_to_student", "extra_parameters", "remark"]
    columns += [place_name(place) for place in whole.places]
    return as_filed(pd.DataFrame(ranked(rows, whole.metrics.primary.sign), columns=columns), whole.metrics)


def _aggregates(grid: Grid, m: int, student: str, kd: str, remark: str) -> dict[str, Any]:
    """Everything over all places, of a method that finished them, and what is to say beside `remark`."""
    scores, merits = grid.scores[m][grid.everywhere(m)], grid.merits
    s, k = grid.index(student), grid.index(kd)
    over_seeds = summary(scores.mean(1).tolist())
    low, high = aggregates.stratified_bootstrap(aggregates.interquartile_mean, scores)
    row: dict[str, Any] = {"score_mean": over_seeds.mean, "score_std": over_seeds.std, "remark": remark}
    row |= {"iqm": float(aggregates.interquartile_mean(scores)), "iqm_ci95_low": low, "iqm_ci95_high": high}
    row |= difference_row(grid, m, student, True) | difference_row(grid, m, kd, True)
    row |= relative_row(grid, m, student, True)
    row["extra_parameters"] = mean_of(grid, "extra_parameters", m)
    row = comparable.with_remark(row, grid, m, (student, kd))
    if k is None or k == m or not grid.complete[k] or comparable.others(grid, m, k).any():
        return row
    better, ours, theirs = aggregates.probability_of_improvement, *(merits[i][grid.everywhere(i)] for i in (m, k))
    low, high = aggregates.stratified_bootstrap(better, ours, theirs)
    row |= {"probability_of_improvement": float(better(ours, theirs))}
    row |= {"probability_of_improvement_ci95_low": low, "probability_of_improvement_ci95_high": high}
    shared = grid.everywhere(m, k)
    counts = aggregates.wins_ties_losses(merits[m][shared], merits[k][shared])
    row |= dict(zip(("wins", "ties", "losses"), counts, strict=True))
    if s is not None and s != m:
        means = (grid.means[i] for i in (m, k, s))
        row["ari"] = aggregates.average_relative_improvement(*means)
    return row


def _done(grid: Grid, m: int, p: int) -> list[float]:
    return grid.scores[m, :, p][grid.states[m, :, p] == "done"].tolist()


def ranking(grid: Grid) -> CriticalDifference | None:
    """The data of a critical-difference diagram: the complete methods, ranked at every place by their mean over seeds.

    At a single place its seeds are ranked instead. None if fewer than two methods are complete.
    """
    complete = np.flatnonzero(grid.complete)
    if len(complete) < 2:
        return None
    seeds = grid.everywhere(*complete.tolist())
    blocks = grid.means[complete].T if len(grid.places) > 1 else grid.merits[complete][:, seeds, 0].T
    if not len(blocks):
        return None
    return critical_difference([grid.methods[m] for m in complete], blocks)

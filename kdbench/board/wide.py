"""The table of a suite: a row a method, its aggregates over all places, and its mean at each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdbench.board import comparable
from kdbench.board.grid import STATES, Grid, left_out, make_grid
from kdbench.board.runs import place_name, runs_table
from kdbench.board.statistics import aggregates
from kdbench.board.statistics.intervals import summary
from kdbench.board.statistics.ranks import CriticalDifference, borda, critical_difference, place_ranks
from kdbench.board.tables import DIFFERENCE, correct, difference_row, mean_of, ranked, relative_row, state_row
from kdbench.records import Record
from kdbench.suites.grid import BASELINES


def wide_table(
    records: Sequence[Record],
    expected: Iterable[Mapping[str, Any]] = (),
    baselines: Sequence[str] = BASELINES,
    common: bool = False,
) -> pd.DataFrame:
    """A row a method: rank, states, aggregates over all places, then one column a place with the mean top-1.

    A method that lacks a run has no aggregate and no rank; the others are ranked among themselves. With `common` the
    aggregates are over the places (or else seeds) that all methods finished, and `remark` says how many that are; the
    columns of the places stay as they are. docs/records.md explains every column.
    """
    whole = make_grid(runs_table(records, expected))
    grid = whole.common() if common else whole
    student, kd = baselines
    rows = [state_row(whole, m, True, grid if grid.complete[m] else whole) for m in range(len(whole.methods))]
    complete = np.flatnonzero(grid.complete)
    if len(complete):
        by_place = grid.means[complete].T  # [places, methods]
        ranks, points = place_ranks(by_place).mean(0), borda(by_place)
        for m, rank, count in zip(complete.tolist(), ranks.tolist(), points.tolist(), strict=True):
            rows[m] |= {"mean_rank": rank, "borda": count} | _aggregates(grid, m, student, kd, rows[m]["remark"])
    correct(rows, baselines)
    for m, row in enumerate(rows):
        row |= {place_name(place): summary(_done(whole, m, p)).mean for p, place in enumerate(whole.places)}
    columns = ["rank", "method", "name", "family", "n", *STATES, "top1_mean", "top1_std", "mean_rank", "borda"]
    columns += ["iqm", "iqm_ci95_low", "iqm_ci95_high"]
    columns += ["probability_of_improvement", "probability_of_improvement_ci95_low"]
    columns += ["probability_of_improvement_ci95_high", "ari", "wins", "ties", "losses"]
    columns += [f"vs_{baseline}{part}" for baseline in baselines for part in DIFFERENCE]
    columns += ["gap_closed", "time_ratio_to_student", "extra_parameters", "remark"]
    columns += [place_name(place) for place in whole.places]
    return pd.DataFrame(ranked(rows), columns=columns)


def _aggregates(grid: Grid, m: int, student: str, kd: str, remark: str) -> dict[str, Any]:
    """Everything over all places, of a method that finished them, and what is to say beside `remark`."""
    scores, (s, k) = grid.scores[m], (grid.index(student), grid.index(kd))
    over_seeds = summary(scores.mean(1).tolist())
    low, high = aggregates.stratified_bootstrap(aggregates.interquartile_mean, scores)
    row: dict[str, Any] = {"top1_mean": over_seeds.mean, "top1_std": over_seeds.std, "remark": remark}
    row |= {"iqm": float(aggregates.interquartile_mean(scores)), "iqm_ci95_low": low, "iqm_ci95_high": high}
    row |= difference_row(grid, m, student, True) | difference_row(grid, m, kd, True)
    row |= relative_row(grid, m, student, True)
    row["extra_parameters"] = mean_of(grid, "extra_parameters", m)
    row = comparable.with_remark(row, grid, m, (student, kd))
    if k is None or k == m or not grid.complete[k] or comparable.others(grid, m, k).any():
        return row
    better = aggregates.probability_of_improvement
    low, high = aggregates.stratified_bootstrap(better, scores, grid.scores[k])
    row |= {"probability_of_improvement": float(better(scores, grid.scores[k]))}
    row |= {"probability_of_improvement_ci95_low": low, "probability_of_improvement_ci95_high": high}
    row |= dict(zip(("wins", "ties", "losses"), aggregates.wins_ties_losses(scores, grid.scores[k]), strict=True))
    if s is not None and s != m:
        means = (grid.means[i] for i in (m, k, s))
        row["ari"] = aggregates.average_relative_improvement(*means)
    return row


def _done(grid: Grid, m: int, p: int) -> list[float]:
    return grid.scores[m, :, p][grid.states[m, :, p] == "done"].tolist()


def ranking(
    records: Sequence[Record], expected: Iterable[Mapping[str, Any]] = (), common: bool = False
) -> CriticalDifference | None:
    """The data of a critical-difference diagram: the complete methods, ranked at every place by their mean over seeds.

    At a single place its seeds are ranked instead. None if fewer than two methods are complete.
    """
    grid = make_grid(runs_table(records, expected))
    grid = grid.common() if common else grid
    complete = np.flatnonzero(grid.complete)
    if len(complete) < 2:
        return None
    blocks = grid.means[complete].T if len(grid.places) > 1 else grid.scores[complete][:, :, 0].T
    return critical_difference([grid.methods[m] for m in complete], blocks)


def common_note(records: Sequence[Record], expected: Iterable[Mapping[str, Any]] = ()) -> str:
    """What `common` leaves out, in a sentence or two; nothing if every method finished everything."""
    whole = make_grid(runs_table(records, expected))
    return left_out(whole, whole.common())

"""One number for a method over many places, from arrays of its runs.

A place is a (data set, protocol, pair). `scores` are `[..., seeds, places]`, more is better (`Grid.merits`); means over
seeds are `[..., places]`. A missing run is NaN and makes every aggregate over it NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import stats

from kdbench.board.statistics.intervals import CONFIDENCE, RESAMPLES

TRIM = 0.25  # of the runs at either end, which the interquartile mean leaves out


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs of all places, `[...]`: `scores` `[..., seeds, places]` (rliable's IQM)."""
    pooled = scores.reshape(*scores.shape[:-2], -1)
    middle = stats.trim_mean(pooled, TRIM, axis=-1)
    return np.where(np.isnan(pooled).any(-1), math.nan, middle)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Chance that a run of ours beats one of theirs at the same place, `[...]`; a tie is half a win (as in rliable).

    Args:
        ours: `[..., seeds, places]`.
        theirs: `[..., other seeds, places]`; every run of ours meets every one of theirs.
    """
    mine, other = ours[..., :, None, :], theirs[..., None, :, :]  # [..., seeds, other seeds, places]
    wins = (mine > other) + 0.5 * (mine == other)
    missing = np.isnan(ours).any((-2, -1)) | np.isnan(theirs).any((-2, -1))
    return np.where(missing, math.nan, wins.mean((-3, -2, -1)))


def stratified_bootstrap(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of `statistic(*samples)`, resampling the seeds of each place by themselves.

    Args:
        statistic: of arrays `[..., seeds, places]`, gives `[...]`.
        samples: `[seeds, places]` each, resampled independently of each other; NaN or one seed has no interval.
    """
    if any(np.isnan(sample).any() or len(sample) < 2 for sample in samples):
        return math.nan, math.nan
    places = np.arange(samples[0].shape[1])
    drawn = [sample[_rows(*sample.shape, stream), places] for stream, sample in enumerate(samples)]
    low, high = np.quantile(statistic(*drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@lru_cache(maxsize=8)
def _rows(seeds: int, places: int, stream: int) -> np.ndarray:
    """Which seed a resample takes at each place, `[RESAMPLES, seeds, places]`."""
    return np.random.default_rng(stream).integers(seeds, size=(RESAMPLES, seeds, places))


def gap_closed(method: np.ndarray, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Share of the gap between student and teacher that a method closes at each place, `[places]`: 0 is the student,
    1 the teacher. Means over seeds come in, `[places]` each. NaN where the teacher is not above the student: there is
    no gap to close.
    """
    gap = np.where(teacher > student, teacher - student, math.nan)
    return (method - student) / gap


def average_relative_improvement(method: np.ndarray, base: np.ndarray, student: np.ndarray) -> float:
    """SemCKD's ARI in %: how much further than `base` a method moves from the student, as a share of how far `base`
    moved, averaged over places; means over seeds come in, `[places]` each.

        100 / places * sum((method - base) / (base - student))

    NaN if `base` is not above the student at some place: the share has no meaning there. Nor has it where that gain
    cannot be told from 0, which means do not say: ask before.
    """
    moved = np.where(base > student, base - student, math.nan)
    return float(100 * np.mean((method - base) / moved))


def pareto_front(cost: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which of the methods `[m]` no other beats: none is cheaper at the same score or better at the same cost."""
    cheaper = (cost[None] < cost[:, None]) & (score[None] >= score[:, None])  # [m, by which other]
    better = (cost[None] <= cost[:, None]) & (score[None] > score[:, None])
    return ~(cheaper | better).any(1) & np.isfinite(cost) & np.isfinite(score)

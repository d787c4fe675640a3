"""Ranks of methods over places, and whether they differ: Friedman's test and Nemenyi's, after Demsar (JMLR 2006)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdbench.board.statistics.intervals import SURE


@dataclass(frozen=True)
class Friedman:
    """Whether any of the methods differ in rank: Friedman's chi-squared with its p-value, both corrected for ties, and
    Iman and Davenport's less conservative F.
    """

    chi2: float
    p: float
    f: float
    f_p: float


@dataclass(frozen=True)
class CriticalDifference:
    """What a critical-difference diagram shows.

    Attributes:
        methods, ranks: best average rank first.
        difference: average ranks further apart than this differ at 5 %, by Nemenyi's test.
        cliques: the groups of methods that it cannot tell apart, which a diagram joins by a bar: first and last index
            into `methods`, none inside another.
        p: Nemenyi's p-value of every two methods, `[methods, methods]`.
        blocks: how many places were ranked.
        friedman: if its p is not below 5 %, the differences between ranks are not to be believed either.
    """

    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    difference: float
    cliques: tuple[tuple[int, int], ...]
    p: np.ndarray
    blocks: int
    friedman: Friedman


def place_ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of every method at every place, 1 the best, equal scores sharing the average: `[places, methods]` for
    `scores` `[places, methods]`.
    """
    return stats.rankdata(-scores, axis=1)


def borda(scores: np.ndarray) -> np.ndarray:
    """Borda count `[methods]` of `scores` `[places, methods]`: a point for every method beaten at a place, half a point
    for an equal one.
    """
    return (scores.shape[1] - place_ranks(scores)).sum(0)


def friedman(scores: np.ndarray) -> Friedman:
    """Test `scores` `[places, methods]`; NaN for fewer than two places or three methods, or where all are equal."""
    places, methods = scores.shape
    if places < 2 or methods < 3 or not np.ptp(scores, axis=1).any():
        return Friedman(math.nan, math.nan, math.nan, math.nan)
    chi2, p = stats.friedmanchisquare(*scores.T)
    rest = places * (methods - 1) - chi2
    f = (places - 1) * chi2 / rest if rest > 1e-9 else math.inf  # every place ranks alike
    f_p = stats.f.sf(f, methods - 1, (methods - 1) * (places - 1))
    return Friedman(float(chi2), float(p), float(f), float(f_p))


def critical_difference(methods: list[str], scores: np.ndarray, alpha: float = SURE) -> CriticalDifference:
    """Compare all methods with each other by their average ranks.

    Args:
        methods: their labels.
        scores: `[places, methods]`, complete; two methods or more.
        alpha: the chance of calling any two methods different that are not.
    """
    places, count = scores.shape
    mean = place_ranks(scores).mean(0)
    order = sorted(range(count), key=lambda m: (mean[m], methods[m]))
    ranks = mean[order]
    unit = math.sqrt(count * (count + 1) / (6 * places))  # standard error of a difference of average ranks
    difference = float(stats.studentized_range.ppf(1 - alpha, count, math.inf)) / math.sqrt(2) * unit
    apart = np.abs(ranks[:, None] - ranks)
    p = stats.studentized_range.sf(apart / unit * math.sqrt(2), count, math.inf)
    np.fill_diagonal(p, 1.0)
    names = tuple(methods[m] for m in order)
    return CriticalDifference(
        names, tuple(ranks.tolist()), difference, _cliques(ranks, difference), p, places, friedman(scores)
    )


def _cliques(ranks: np.ndarray, difference: float) -> tuple[tuple[int, int], ...]:
    """The longest stretches of sorted `ranks` `[methods]` that span no more than `difference`."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + difference, side="right")) - 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)

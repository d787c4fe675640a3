"""Statistics of the tables: pure functions over arrays of runs. NaN stands for what too few runs cannot tell."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SURE = 0.05  # the p-value below which a difference is called one
LEAST_SEEDS = 3  # two seeds tell nothing
RESAMPLES = 9999  # of every bootstrap, each from the same stream: the same values give the same interval
SAME = 1e-9  # differences closer than this are equal: they are of percentages, after rounding errors
DIGITS = 9  # means are rounded here, so that equal results are equal whatever the order of their sum


@dataclass(frozen=True)
class Summary:
    """Of one sample: size, mean, sample standard deviation (n - 1), and the 95 % t interval of the mean."""

    n: int
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Of paired differences a - b of `n` runs: their mean, and what `t_test` says of it.

    Attributes:
        n: paired runs.
        seeds: how many different ones they have.
        units: what repeats: seeds, or of several places the students of a seed.
        std: sample standard deviation of a unit's difference.
        low, high, p: 95 % interval of the mean and two-sided p; NaN where nothing can be told.
    """

    n: int
    seeds: int
    units: int
    mean: float
    std: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Tests:
    """Many paired t-tests: arrays `[...]` of what `Paired` has of one."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def summary(values: Sequence[float]) -> Summary:
    """Summarise values `[n]`; one value has no spread and no interval, none has no mean."""
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n == 0:
        return Summary(0, math.nan, math.nan, math.nan, math.nan)
    mean = round(float(sample.mean()), DIGITS)
    if n == 1:
        return Summary(1, mean, math.nan, math.nan, math.nan)
    std = float(sample.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def paired(
    a: Sequence[float],
    b: Sequence[float],
    seeds: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Paired:
    """Compare `a` `[n]` with `b` `[n]`, which share seeds (and pairs, data sets) element by element.

    Args:
        seeds: of each run; None: every run has one of its own.
        groups: runs of one seed that share a group are one unit (`units_of`); None: those of a seed share it.
    """
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    n = len(differences)
    if n == 0:
        return Paired(0, 0, 0, *[math.nan] * 5)
    own = list(range(n)) if seeds is None else list(seeds)
    units = units_of(own, groups)
    t = t_test(differences, units, len(set(own)))
    mean, std, low, high, p = (float(value) for value in (t.mean, t.std, t.low, t.high, t.p))
    return Paired(n, len(set(own)), int(units.max()) + 1, round(mean, DIGITS), std, low, high, p)


def units_of(seeds: Sequence[Hashable], groups: Sequence[Hashable] | None = None) -> np.ndarray:
    """Which runs repeat each other independently: the number of each run's unit, `[n]`, from 0.

    The plain student of one seed is the same whoever teaches it, so that differences at two pairs with one student
    hang together: they are one unit, a pair of seed and group.
    """
    keys = list(zip(seeds, groups if groups is not None else [None] * len(seeds), strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=int)


def t_test(differences: np.ndarray, units: np.ndarray | None = None, seeds: int | None = None) -> Tests:
    """Student's t-test of the mean of `differences` `[..., n]`, with the variance of `units` `[n]` as in Liang and
    Zeger (Biometrika 1986): of units of one run each it is the paired t-test.

    There is neither interval nor p where all units are equal, most of all on a small test set, whose scores are few:
    nothing is there to hold the difference against (taken as p = 0 it gave up to 37 % of boards without any difference
    a false star, with 3 seeds, 62 methods and 360 test images). Nor is there with fewer than `LEAST_SEEDS` seeds, whose
    spread is a single number.

    Args:
        units: as `units_of` numbers them; None: every run is one.
        seeds: how many different ones there are; None: as many as units.
    """
    n = differences.shape[-1]
    units = np.arange(n) if units is None else units
    count = int(units.max()) + 1
    mean = differences.mean(-1)
    residuals = (differences - mean[..., None]) @ np.eye(count)[units]  # [..., units]: the sum over each unit's runs
    flat = (np.abs(residuals) < SAME).all(-1)
    untold = flat | (min(count, count if seeds is None else seeds) < LEAST_SEEDS)
    if count < 2:
        nothing = np.full(mean.shape, math.nan)
        return Tests(mean, nothing, nothing, nothing, nothing)
    error = np.sqrt(count / (count - 1) * (residuals**2).sum(-1)) / n
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    t = np.abs(mean) / np.where(flat, math.nan, error)
    low, high, p = (np.where(untold, math.nan, v) for v in (mean - half, mean + half, 2 * stats.t.sf(t, count - 1)))
    return Tests(mean, np.where(flat, 0.0, error * math.sqrt(count)), low, high, p)


def bootstrap(values: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % percentile bootstrap interval of the mean of `values` `[..., n]`, `[...]` each; NaN for n < 2.

    It assumes no normal distribution, but with three seeds it cannot leave their range and is too narrow: believe the
    t interval first.
    """
    samples = np.asarray(values, dtype=float)
    if samples.shape[-1] < 2:
        empty = np.full(samples.shape[:-1], math.nan)
        return empty, empty
    interval = stats.bootstrap(
        (samples,),
        np.mean,
        axis=-1,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return np.asarray(interval.low), np.asarray(interval.high)


def holm(p: Sequence[float] | np.ndarray, family: int = 0) -> np.ndarray:
    """Holm's p-values `[..., m]` for families of tests `p` `[..., m]`: the chance of any false alarm among a family
    stays below 5 % if those below 0.05 are believed. NaN is no test.

    Args:
        family: how many tests there are, if more than `p` shows: what is not shown, and what was too coarse to test.
    """
    raw = np.asarray(p, dtype=float)
    tested = np.isfinite(raw)
    known = np.where(tested, raw, math.inf)
    order = np.argsort(known, axis=-1, kind="stable")
    left = np.maximum(tested.sum(-1, keepdims=True), family) - np.arange(raw.shape[-1])
    steps = np.take_along_axis(known, order, -1) * np.maximum(left, 1)
    corrected = np.empty_like(raw)
    np.put_along_axis(corrected, order, np.minimum(np.maximum.accumulate(steps, -1), 1.0), -1)
    return np.where(tested, corrected, math.nan)


def agreeing(values: Sequence[float], std: float = math.nan, n: int = 0) -> tuple[float, float]:
    """The 95 % interval around the mean of `values` `[m]` in which another mean agrees with it.

    Where the other mean's sample standard deviation and n >= 2 are known, its error counts as well (Welch's interval of
    the difference, with Welch and Satterthwaite's degrees of freedom); else it is taken as exact (Student's interval).
    """
    s = summary(values)
    if s.n < 2 or n < 2 or not math.isfinite(std) or s.std == std == 0:
        return s.low, s.high
    ours, theirs = s.std**2 / s.n, std**2 / n
    freedom = (ours + theirs) ** 2 / (ours**2 / (s.n - 1) + theirs**2 / (n - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(ours + theirs)
    return s.mean - half, s.mean + half

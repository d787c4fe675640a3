"""Statistics of the tables: pure functions over arrays of runs. NaN stands for what too few runs cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SURE = 0.05  # the p-value below which a difference is called one
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
    """Of paired differences a - b: a `Summary` and the two-sided p-value of the paired t-test."""

    n: int
    mean: float
    std: float
    low: float
    high: float
    p: float


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


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare `a` `[n]` with `b` `[n]`, which share seeds (and pairs, data sets) element by element.

    Where all differences are equal there is no spread to hold them against, most of all on a small test set, whose
    scores are few: neither p nor interval.
    """
    differences = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    s = summary(differences.tolist())
    if s.n < 2 or np.ptp(differences) < SAME:
        return Paired(s.n, s.mean, s.std, math.nan, math.nan, math.nan)
    return Paired(s.n, s.mean, s.std, s.low, s.high, float(stats.ttest_rel(a, b).pvalue))


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


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's p-values `[m]` for a family of tests `p` `[m]`: the chance of any false alarm among them stays below 5 %
    if those below 0.05 are believed. NaN is no test and does not count.
    """
    raw = np.asarray(p, dtype=float)
    tests = np.flatnonzero(np.isfinite(raw))
    order = tests[np.argsort(raw[tests], kind="stable")]
    steps = raw[order] * np.arange(len(order), 0, -1)
    corrected = np.full(raw.shape, math.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


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

"""How many seeds would tell two methods apart? Sizes of the paired t-test, by the noncentral t distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from kdbench.board.columns import metrics_of
from kdbench.board.compare import matched
from kdbench.board.numbers import plain, with_unit
from kdbench.board.runs import PLACE, place_name
from kdbench.board.statistics.intervals import SURE, summary
from kdbench.board.tables import OVERALL
from kdbench.records import Record
from kdbench.tasks.metrics import Metric

POWER = 0.8  # the chance to see a difference that is there
MOST = 1_000_000  # seeds nobody will run


@dataclass(frozen=True)
class Need:
    """The seeds that one place needs.

    Attributes:
        place: a (data set, protocol, pair), or all of them: then a seed's difference is its mean over the places.
        difference: a - b as measured, the mean over seeds.
        std: sample standard deviation of the paired differences.
        seeds: how many there are so far.
        needed: how many there must be; infinite if there is no difference to see, NaN if one seed shows no spread.
    """

    place: str
    difference: float
    std: float
    seeds: int
    needed: float


@dataclass(frozen=True)
class Plan:
    """What telling `a` and `b` apart takes, at each place and (first) over all, and the sentence that says so."""

    a: str
    b: str
    rows: tuple[Need, ...]
    sentence: str
    metric: Metric


def power(n: int, effect: float, alpha: float = SURE) -> float:
    """Power of the two-sided paired t-test of `n` >= 2 differences whose mean is `effect` standard deviations."""
    freedom, noncentrality = n - 1, abs(effect) * math.sqrt(n)
    edge = stats.t.isf(alpha / 2, freedom)
    return float(stats.nct.sf(edge, freedom, noncentrality) + stats.nct.cdf(-edge, freedom, noncentrality))


def seeds_needed(difference: float, std: float, wanted: float = POWER, alpha: float = SURE) -> float:
    """The fewest seeds (2 or more) that see `difference` with the chance `wanted`, if differences spread by `std`."""
    if math.isnan(difference) or math.isnan(std):
        return math.nan
    if difference == 0:
        return math.inf
    if std == 0:
        return 2
    effect = difference / std
    few, many = 1, 2  # `few` is too few, `many` is to be enough
    while power(many, effect, alpha) < wanted:
        few, many = many, 2 * many
        if many > MOST:
            return math.inf
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if power(middle, effect, alpha) >= wanted else (middle, many)
    return many


def plan(records: Sequence[Record], a: str, b: str, delta: float | None = None) -> Plan:
    """Plan the seeds that tell methods `a` and `b` apart, from how their paired differences spread in `records`.

    Args:
        records: of one suite.
        a, b: labels.
        delta: the difference that shall be seen, in the unit of the primary score's differences; None: the one that was
            seen so far.

    Raises:
        KDBenchError: if a label has no record, or the two never ran at the same place and seed.
    """
    both, metric = matched(records, a, b), metrics_of(records).primary
    both["difference"] = both["score_a"] - both["score_b"]
    by_place = list(both.groupby(PLACE, sort=True))
    rows = [_need(place_name(place), group["difference"].tolist(), delta) for place, group in by_place]
    if len(rows) > 1:
        per_seed = both.groupby("seed")["difference"].agg(["mean", "size"])
        everywhere = per_seed.loc[per_seed["size"] == len(rows), "mean"]
        rows.insert(0, _need(OVERALL, everywhere.tolist(), delta))
    return Plan(a, b, tuple(rows), _sentence(a, b, rows[0], delta, metric), metric)


def _need(place: str, differences: Sequence[float], delta: float | None) -> Need:
    s = summary(differences)
    std = 0.0 if s.std < 1e-12 else s.std  # what is left of equal differences after rounding
    return Need(place, s.mean, std, s.n, seeds_needed(s.mean if delta is None else delta, std))


def _sentence(a: str, b: str, need: Need, delta: float | None, metric: Metric) -> str:
    if math.isnan(need.needed):
        return f"{need.seeds} seed(s) of {a} and {b} show no spread: run at least two"
    wanted = need.difference if delta is None else delta
    where = "" if need.place == OVERALL else f" at {need.place}"
    spread, size = (with_unit(plain(value, metric.decimals), metric.points) for value in (need.std, abs(wanted)))
    seen = f"paired differences spread by {spread} over {need.seeds} seeds"
    if wanted == 0:
        return f"{a} and {b} show no difference{where}: give the one you want to see with --delta"
    apart = f"to tell {a} and {b} apart by {size}{where}"
    count = f"more than {MOST:,}" if math.isinf(need.needed) else f"{need.needed:.0f}"
    sure = f"power {POWER:g}, alpha {SURE:g}, paired t-test"
    return f"{apart} takes {count} seeds ({sure}; {seen})"

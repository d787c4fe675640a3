"""How many seeds would tell two methods apart?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.board.columns import metrics_of
from kdbench.board.compare import balanced, difference, matched
from kdbench.board.numbers import plain, with_unit
from kdbench.board.runs import PLACE, place_name
from kdbench.board.statistics.intervals import SURE, Paired
from kdbench.board.statistics.power import MOST, POWER, seeds_needed
from kdbench.board.tables import OVERALL
from kdbench.records import Record
from kdbench.tasks.metrics import Metric


@dataclass(frozen=True)
class Need:
    """The seeds that one place needs.

    Attributes:
        place: a (data set, protocol, pair), or all of them.
        difference: a - b as measured.
        std: sample standard deviation of the paired differences of what repeats: seeds, over all places a seed's
            students, as in `compare`.
        seeds: how many there are so far.
        needed: how many there must be; infinite if there is no difference to see, NaN if there is no spread.
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


def plan(records: Sequence[Record], a: str, b: str, delta: float | None = None, std: float | None = None) -> Plan:
    """Plan the seeds that tell methods `a` and `b` apart, from how their paired differences spread in `records`.

    Args:
        records: of one suite.
        a, b: labels.
        delta: the difference that shall be seen, in the unit of the primary score's differences; None: the one that was
            seen so far.
        std: how paired differences spread, if not as in the records.

    Raises:
        KDBenchError: if a label has no record, or the two never ran at the same place and seed.
    """
    both, metric = matched(records, a, b), metrics_of(records).primary
    parts = [(place_name(tuple(place)), group) for place, group in both.groupby(PLACE, sort=True)]
    if len(parts) > 1:
        parts.insert(0, (OVERALL, balanced(both, a, b)[0]))
    rows = [_need(place, difference(part), delta, std) for place, part in parts]
    return Plan(a, b, tuple(rows), _sentence(a, b, rows[0], delta, std is not None, metric), metric)


def _need(place: str, d: Paired, delta: float | None, std: float | None) -> Need:
    spread = d.std if std is None else std
    wanted = d.mean if delta is None else delta
    return Need(place, d.mean, spread, d.seeds, seeds_needed(wanted, spread, units=d.units // max(d.seeds, 1)))


def _sentence(a: str, b: str, need: Need, delta: float | None, assumed: bool, metric: Metric) -> str:
    wanted = need.difference if delta is None else delta
    where = "" if need.place == OVERALL else f" at {need.place}"
    if wanted == 0:
        return f"{a} and {b} show no difference{where}: give the one you want to see with --delta"
    if math.isnan(need.needed):
        return f"{need.seeds} seed(s) of {a} and {b} show no spread{where}: run more, or assume one with --sd"
    spread, size = (with_unit(plain(value, metric.decimals), metric.points) for value in (need.std, abs(wanted)))
    seen = f"paired differences spread by {spread} over {need.seeds} seeds"
    seen = f"assumed that paired differences spread by {spread}" if assumed else seen
    apart = f"to tell {a} and {b} apart by {size}{where}"
    count = f"more than {MOST:,}" if math.isinf(need.needed) else f"{need.needed:.0f}"
    sure = f"power {POWER:g}, alpha {SURE:g}, paired t-test"
    return f"{apart} takes {count} seeds ({sure}; {seen})"

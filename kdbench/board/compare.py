"""Is method A better than method B, by how much, and how sure is that?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from kdbench.board import comparable
from kdbench.board.columns import as_meant, metrics_of
from kdbench.board.numbers import plain, with_unit
from kdbench.board.runs import PLACE, place_name, runs_table
from kdbench.board.statistics.intervals import LEAST_SEEDS, SURE, Paired, holm, paired
from kdbench.board.tables import OVERALL
from kdbench.errors import KDBenchError, unknown
from kdbench.records import Record
from kdbench.tasks.metrics import Metric


@dataclass(frozen=True)
class Comparison:
    """Methods `a` and `b`, their paired differences of the primary score by place (the first is over all), and the
    verdict.

    Attributes:
        a, b: labels.
        rows: place and difference; the first is over the seeds that both finished at every place.
        holm: p of each row, corrected for the number of places; of the first NaN, for it is one test by itself.
        verdict: a sentence.
        metric: the primary score.
        note: what the first row leaves out, so that every pair counts alike; nothing if it leaves out nothing.
    """

    a: str
    b: str
    rows: tuple[tuple[str, Paired], ...]
    holm: tuple[float, ...]
    verdict: str
    metric: Metric
    note: str = ""


def compare(records: Sequence[Record], a: str, b: str) -> Comparison:
    """Compare two methods by their labels, paired by data set, protocol, pair and seed.

    Raises:
        KDBenchError: if a label has no record, or the two never ran at the same place and seed.
    """
    both, metric = matched(records, a, b), metrics_of(records).primary
    counted, note = balanced(both, a, b)
    rows = [(OVERALL, difference(counted))]
    rows += [(place_name(tuple(place)), difference(group)) for place, group in both.groupby(PLACE, sort=True)]
    corrected = holm([d.p for _, d in rows[1:]], len(rows) - 1).tolist()
    verdict = _verdict(a, b, rows[0][1], metric, both["seed"].nunique())
    return Comparison(a, b, tuple(rows), (math.nan, *corrected), verdict, metric, note)


def difference(both: pd.DataFrame) -> Paired:
    """The paired difference of rows of `matched`, as the leaderboard has it: what repeats is a seed; over several
    places, a seed's students.
    """
    groups = both[[*PLACE[:2], "student_a"]].itertuples(index=False, name=None)
    return paired(both["score_a"].tolist(), both["score_b"].tolist(), both["seed"].tolist(), list(groups))


def balanced(both: pd.DataFrame, a: str, b: str) -> tuple[pd.DataFrame, str]:
    """The runs of `matched` at the places where the two share every seed that they share anywhere, or, if there is no
    such place, with the seeds that they share at all places; and what that leaves out, in a sentence.
    """
    seeds = set(both["seed"])
    lacking = {place for place, own in both.groupby(PLACE)["seed"] if set(own) != seeds}
    if not lacking:
        return both, ""
    places = both.set_index(PLACE).index
    count = places.nunique()
    kept = both[~places.isin(lacking)]
    if len(kept):
        what = f"over {count - len(lacking)} of {count} pairs"
    else:
        everywhere = set.intersection(*(set(own) for _, own in both.groupby(PLACE)["seed"]))
        kept, what = both[both["seed"].isin(everywhere)], f"over {len(everywhere)} of {len(seeds)} seeds"
    where = ", ".join(place_name(place) for place in sorted(lacking))
    return kept, f"the first row is {what}: {a} and {b} do not share every seed on {where}"


def matched(records: Sequence[Record], a: str, b: str) -> pd.DataFrame:
    """The finished runs of two methods side by side, by place and seed: columns of the runs, as `kdbench.board.columns`
    calls them, ending in `_a` and `_b`.

    Raises:
        KDBenchError: as `compare`.
    """
    runs = as_meant(runs_table(records), metrics_of(records))
    labels = sorted(runs["method"].unique())
    if not labels:
        raise KDBenchError("there are no records of this suite yet: run it first, or name its folder by --out")
    for label in (a, b):
        if label not in labels:
            raise unknown("method in these results", label, labels, "`kdbench leaderboard` shows all")
    done = runs[runs["status"] == "done"]
    both = done[done["method"] == a].merge(done[done["method"] == b], on=[*PLACE, "seed"], suffixes=("_a", "_b"))
    if both.empty:
        raise KDBenchError(f"{a!r} and {b!r} have no finished run of the same pair and seed: run both first")
    for key, different in comparable.DIFFERENT.items():
        both = comparable.paired_rows(both, runs.attrs[key], key)
        if both.empty:
            raise KDBenchError(f"{a!r} and {b!r} {different} with every seed: run one of them again")
    return both


def _verdict(a: str, b: str, d: Paired, metric: Metric, seeds: int) -> str:
    """What is told over all places, of `seeds` that both finished at some of them."""
    if d.seeds < LEAST_SEEDS:
        where = " at every pair" * (seeds > d.seeds)
        return f"too few seeds to tell {a} and {b} apart ({d.seeds}{where}): run at least {LEAST_SEEDS}"
    low, mean, high = (plain(value, metric.decimals, True) for value in (d.low, d.mean, d.high))
    unsure = f"cannot tell {a} and {b} apart: {with_unit(mean, metric.points)} of {metric.title}"
    if not math.isfinite(d.p):
        return f"{unsure} in each of {d.n} paired runs, too coarse to test"
    some = f" of the {d.seeds} seeds that both finished at every pair" * (seeds > d.seeds)
    interval = f"95 % CI {low} to {high}, p = {d.p:.2g}, {d.n} paired runs{some}"
    if d.p < SURE:
        word = "better" if metric.gain(d.mean, 0.0) > 0 else "worse"
        size = with_unit(plain(abs(d.mean), metric.decimals), metric.points)
        return f"{a} is {word} than {b} by {size} of {metric.title} ({interval})"
    return f"{unsure} ({interval})"

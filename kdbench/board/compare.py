"""Is method A better than method B, by how much, and how sure is that?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from kdbench.board import comparable
from kdbench.board.runs import PLACE, place_name, runs_table
from kdbench.board.statistics.intervals import SURE, Paired, holm, paired
from kdbench.board.tables import OVERALL
from kdbench.errors import KDBenchError, unknown
from kdbench.records import Record


@dataclass(frozen=True)
class Comparison:
    """Methods `a` and `b`, their paired top-1 differences by place (the first is over all), and the verdict.

    Attributes:
        a, b: labels.
        rows: place and difference.
        holm: p of each row, corrected for the number of places; of the first NaN, for it is one test by itself.
        verdict: a sentence.
    """

    a: str
    b: str
    rows: tuple[tuple[str, Paired], ...]
    holm: tuple[float, ...]
    verdict: str


def compare(records: Sequence[Record], a: str, b: str) -> Comparison:
    """Compare two methods by their labels, paired by data set, protocol, pair and seed.

    Raises:
        KDBenchError: if a label has no record, or the two never ran at the same place and seed.
    """
    both = matched(records, a, b)
    rows = [(OVERALL, paired(both["top1_a"].tolist(), both["top1_b"].tolist()))]
    for place, group in both.groupby(PLACE, sort=True):
        rows.append((place_name(tuple(place)), paired(group["top1_a"].tolist(), group["top1_b"].tolist())))
    corrected = holm([d.p for _, d in rows[1:]]).tolist()
    return Comparison(a, b, tuple(rows), (math.nan, *corrected), _verdict(a, b, rows[0][1]))


def matched(records: Sequence[Record], a: str, b: str) -> pd.DataFrame:
    """The finished runs of two methods side by side, by place and seed: columns of runs.csv ending in `_a` and `_b`.

    Raises:
        KDBenchError: as `compare`.
    """
    runs = runs_table(records)
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
    kept = comparable.paired_rows(both, runs.attrs[comparable.KEY])
    if kept.empty:
        raise KDBenchError(
            f"{a!r} and {b!r} saw different weights of the teacher with every seed: run one of them again"
        )
    return kept


def _verdict(a: str, b: str, d: Paired) -> str:
    if d.n < 2:
        return f"too few paired runs to tell {a} and {b} apart ({d.n}): run at least two seeds"
    interval = f"95 % CI {d.low:+.2f} to {d.high:+.2f}, p = {d.p:.2g}, {d.n} paired runs"
    if math.isfinite(d.p) and d.p < SURE:
        word = "better" if d.mean > 0 else "worse"
        return f"{a} is {word} than {b} by {abs(d.mean):.2f} points ({interval})"
    return f"cannot tell {a} and {b} apart: {d.mean:+.2f} points ({interval})"

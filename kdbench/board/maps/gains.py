"""What each method gains over the plain student at each place of a map, the teacher's lead there, and what decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from kdbench.board.grid import Grid
from kdbench.board.maps.axes import Axis, axes_of, places_of
from kdbench.board.statistics.intervals import LEAST_SEEDS, paired
from kdbench.errors import KDBenchError
from kdbench.suites.grid import PLAIN
from kdbench.tasks.metrics import Metric

if TYPE_CHECKING:
    from kdbench.board.results import Tables

LEAD = "the teacher's lead"
FILE = "map.csv"
VALUES = ("student", "n", "difference", "low", "high")  # its columns behind the method and the place
FEWEST = 4  # places that a rank correlation is taken of


@dataclass(frozen=True)
class Field:
    """Differences at the places of a map, above zero is better: arrays `[rows, columns]`, NaN where there is no run.

    Attributes:
        mean: over seeds, paired.
        low, high: its 95 % interval; NaN with fewer than three seeds or without spread.
        n: seeds.
        seeds: each seed's own difference, `[seeds, rows, columns]`.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    seeds: np.ndarray

    @property
    def told(self) -> np.ndarray:
        """Where the interval leaves 0 out."""
        told: np.ndarray = (self.low > 0) | (self.high < 0)
        return told


@dataclass(frozen=True)
class Map:
    """Attributes:
    score: the metric.
    axes: the columns', and the rows' where there are two.
    gains: by method, its difference to the plain student.
    lead: the teacher's score less the plain student's.
    students: the plain student's mean score, `[rows, columns]`.
    """

    score: Metric
    axes: Sequence[Axis]
    gains: dict[str, Field]
    lead: Field
    students: np.ndarray

    @property
    def columns(self) -> Axis:
        return self.axes[0]

    @property
    def rows(self) -> Axis | None:
        return self.axes[1] if len(self.axes) > 1 else None


def map_of(tables: Tables) -> Map:
    """The map of a suite's tables.

    Raises:
        KDBenchError: if its places differ in something else than one number or two, or the plain student never ran.
    """
    cells = [*tables.expected, *(record["cell"] for record in tables.records)]
    axes, at = axes_of(places_of(cells))
    grid = tables.grid
    plain = grid.index(PLAIN)
    if plain is None or not (grid.states[plain] == "done").any():
        raise KDBenchError(f"there is no map without {PLAIN!r}: run it at these places")
    shape = (len(axes[1].values) if len(axes) > 1 else 1, len(axes[0].values))
    where = np.full(shape, -1)
    for number, place in enumerate(grid.places):
        across, *down = (axis.values.index(value) for axis, value in zip(axes, at[place], strict=True))
        where[down[0] if down else 0, across] = number
    sign = grid.metrics.primary.sign
    teachers = _teachers(grid)
    gains = {
        label: _field(grid, grid.merits[m] - grid.merits[plain], where)
        for m, label in enumerate(grid.methods)
        if m != plain and label in tables.shown_methods.of(grid)
    }
    students = np.full(shape, math.nan)
    for y, x in np.ndindex(*shape):
        own = grid.scores[plain, :, where[y, x]] if where[y, x] >= 0 else np.array([])
        students[y, x] = np.nanmean(own) if np.isfinite(own).any() else math.nan
    return Map(grid.metrics.primary, axes, gains, _field(grid, sign * teachers - grid.merits[plain], where), students)


def _teachers(grid: Grid) -> np.ndarray:
    """The first teacher's score, `[seeds, places]`: that of any method that has one."""
    scores = grid.values["teacher_score"]  # [methods, seeds, places]
    return np.asarray(pd.DataFrame(scores.reshape(len(scores), -1)).bfill().iloc[0]).reshape(scores.shape[1:])


def _field(grid: Grid, differences: np.ndarray, where: np.ndarray) -> Field:
    """Of differences `[seeds, places]`, at the places `[rows, columns]` (-1: there is none)."""
    parts = {name: np.full(where.shape, math.nan) for name in ("mean", "low", "high")}
    n = np.zeros(where.shape, dtype=int)
    seeds = np.full((len(grid.seeds), *where.shape), math.nan)
    for y, x in np.ndindex(*where.shape):
        if where[y, x] < 0:
            continue
        own = differences[:, where[y, x]]
        seeds[:, y, x] = own
        known = own[np.isfinite(own)]
        if len(known):
            found = paired(known.tolist(), [0.0] * len(known))
            n[y, x] = found.n
            for name, array in parts.items():
                array[y, x] = getattr(found, name)
    return Field(parts["mean"], parts["low"], parts["high"], n, seeds)


@dataclass(frozen=True)
class Relation:
    """How the mean gain of a map's methods goes with one factor over its places.

    Attributes:
        factor: the teacher's lead, or an axis.
        rank: Spearman's rank correlation of the seeds' means.
        least, most: of the seeds' own rank correlations.
        seeds: how many have one.
    """

    factor: str
    rank: float
    least: float
    most: float
    seeds: int


def relations(found: Map) -> list[Relation]:
    """Of the methods' mean gain with the teacher's lead and with each axis, the strongest first; none where fewer than
    four places are finished.
    """
    gains = np.stack([field.seeds for field in found.gains.values()]).mean(0)  # [seeds, rows, columns]
    rows = found.rows.values if found.rows else (0.0,)
    grids = dict(zip(["across", "down"], np.meshgrid(found.columns.values, rows), strict=True))
    factors: dict[str, Any] = {
        LEAD: found.lead.seeds,
        found.columns.title: np.broadcast_to(grids["across"], gains.shape),
    }
    if found.rows:
        factors[found.rows.title] = np.broadcast_to(grids["down"], gains.shape)
    made = []
    for name, values in factors.items():
        both = np.isfinite(gains) & np.isfinite(values)  # seeds that are not finished yet are in neither mean
        whole = _rank(_mean(gains, both), _mean(values, both))
        own = [rank for g, v in zip(gains, values, strict=True) if math.isfinite(rank := _rank(g, v))]
        if math.isfinite(whole) and own:
            made.append(Relation(name, whole, min(own), max(own), len(own)))
    return sorted(made, key=lambda relation: -abs(relation.rank))


def _mean(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Over those of the seeds, `[seeds, rows, columns]` to `[rows, columns]`; NaN where there are none."""
    mean: np.ndarray = np.ma.array(values, mask=~of).mean(0).filled(math.nan)
    return mean


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < FEWEST or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return math.nan
    return float(stats.spearmanr(a[both], b[both]).statistic)


def sentence(found: Map) -> str:
    """What decides whether distillation pays, as far as the numbers carry it."""
    related = relations(found)
    if not related:
        return "Too few places are finished to say what decides."
    told = [f"{one.factor} ({one.rank:+.2f}; seeds {one.least:+.2f} to {one.most:+.2f})" for one in related]
    first, rest = related[0], related[1:]
    gain = "gain of one method" if len(found.gains) == 1 else f"mean gain of {len(found.gains)} methods"
    places = int(np.isfinite(found.lead.mean).sum())
    numbers = f"rank correlations with the {gain} over {places} places: {', '.join(told)}"
    if first.seeds < LEAST_SEEDS:
        return f"Too few seeds are finished to say what decides ({numbers})."
    weakest = min(abs(first.least), abs(first.most)) if first.least * first.most > 0 else 0.0
    if any(max(abs(one.least), abs(one.most)) >= weakest for one in rest) or not weakest:
        return f"No single factor decides surely ({numbers})."
    more = "more" if first.rank > 0 else "less"
    return f"What decides most is {first.factor}: the larger it is, the {more} distillation gains ({numbers})."


def table(found: Map) -> pd.DataFrame:
    """map.csv: a row for each method and place, and for the teacher's lead."""
    rows = []
    for label, field in {**found.gains, LEAD: found.lead}.items():
        for y, x in np.ndindex(*field.mean.shape):
            where = {found.columns.title: found.columns.values[x]}
            where |= {found.rows.title: found.rows.values[y]} if found.rows else {}
            values = (
                found.students[y, x],
                int(field.n[y, x]),
                *(part[y, x] for part in (field.mean, field.low, field.high)),
            )
            rows.append({"method": label, **where, **dict(zip(VALUES, values, strict=True))})
    return pd.DataFrame(rows)

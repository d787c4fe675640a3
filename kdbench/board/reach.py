"""How small a difference to a baseline the seeds of a board can tell, before a run and after it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbench.board.grid import Grid
from kdbench.board.numbers import plain, with_unit
from kdbench.board.runs import place_name
from kdbench.board.statistics.intervals import LEAST_SEEDS
from kdbench.board.statistics.power import POWER, detectable, seeds_needed
from kdbench.board.tables import OVERALL, difference
from kdbench.errors import KDBenchError
from kdbench.papers import reported
from kdbench.suites.grid import BASELINES
from kdbench.tasks.metrics import Metric

HALF_A_POINT = 0.5


@dataclass(frozen=True)
class Spread:
    """How paired differences to a baseline spread over what repeats, and how that is known."""

    std: float
    source: str


@dataclass(frozen=True)
class Reach:
    """What methods of one number of seeds can tell on a board.

    Attributes:
        seeds: that they share with the baseline.
        methods: how many methods have so many.
        tests: how many p-values are corrected for.
        spread: of the paired differences.
        told: the difference that is told with the chance `POWER`; NaN if none is.
        needed: the seeds that would tell `delta`.
    """

    seeds: int
    methods: int
    tests: int
    spread: Spread
    told: float
    needed: float


def baseline_of(grid: Grid) -> str:
    """What differences are planned to: kd, or else the plain student."""
    return next((name for name in reversed(BASELINES) if grid.index(name) is not None), "")


def reach(grid: Grid, tests: int, spread: Spread, delta: float = HALF_A_POINT) -> list[Reach]:
    """What the seeds of a board can tell, most seeds first; one entry for each number of seeds that methods have.

    Args:
        grid: all its places.
        tests: how many p-values are corrected for.
        spread: of the paired differences of what repeats.
        delta: the difference that seeds are counted for.
    """
    b, units = (
        grid.index(baseline_of(grid)),
        len({(*p[:2], s) for p, s in zip(grid.places, grid.students, strict=True)}),
    )
    if b is None:
        return []
    planned: Any = grid.planned.any(2)  # [methods, seeds]
    seeds: Counter[int] = Counter((planned & planned[b]).sum(1)[np.arange(len(grid.methods)) != b].tolist())
    needed = seeds_needed(delta, spread.std, tests=tests, units=units)
    return [
        Reach(
            n,
            methods,
            tests,
            spread,
            detectable(n * units, spread.std, tests) if n >= LEAST_SEEDS else math.nan,
            needed,
        )
        for n, methods in sorted(seeds.items(), reverse=True)
    ]


def seen(grid: Grid) -> Spread | None:
    """The median of the spreads over all methods that have enough runs on a board; None if none has."""
    name, overall = baseline_of(grid), len(grid.places) > 1
    found = [difference(grid, m, name, overall) for m in range(len(grid.methods))] if name else []
    stds = [d.std for d in found if d and d.seeds >= LEAST_SEEDS and d.std > 0]
    methods = f"{len(stds)} methods" if len(stds) > 1 else "1 method"
    return Spread(statistics.median(stds), f"seen of {methods}") if stds else None


def assumed(grid: Grid) -> Spread:
    """What is assumed before the first run: the median of the spreads that papers report of runs on this data set, or
    else on any, and that two runs of one seed have nothing in common.

    Raises:
        KDBenchError: if papers report no such score.
    """
    score = grid.metrics.primary
    wanted = (grid.metrics.task, score.name)
    rows = [row for row in reported.load_all() if (row.task, row.metric) == wanted]
    stds = [(row.dataset, row.std) for row in rows if row.std]
    data = {place[0] for place in grid.places}
    own = [entry for entry in stds if entry[0] in data]
    if not stds:
        raise KDBenchError(f"nothing is known of how {score.title} spreads over seeds: assume something by --sd")
    std = statistics.median(std for _, std in own or stds)
    text = with_unit(plain(std, score.decimals), score.points)
    where = ", ".join(sorted({name for name, _ in own})) or "other data"
    source = f"assumed: the median of {len(own or stds)} published spreads on {where}, {text} of one run"
    return Spread(math.sqrt(2) * std, source)


def boards(grid: Grid) -> Iterator[tuple[str, Grid]]:
    """The boards of a grid: of each place, and first of all together if there are several."""
    if len(grid.places) > 1:
        yield OVERALL, grid
    for p, place in enumerate(grid.places):
        yield place_name(place), grid.part(np.array([p]))


def planned(grid: Grid, delta: float = HALF_A_POINT, std: float | None = None) -> list[tuple[str, Reach]]:
    """What the planned seeds of a suite can tell, corrected for all planned methods: board and reach.

    Args:
        grid: of all cells, run or not.
        delta: as in `reach`.
        std: how paired differences spread; None: as the records have it, at this place or at others, or as `assumed`.

    Raises:
        KDBenchError: if there is no baseline, or nothing is known of the spread.
    """
    if not baseline_of(grid):
        raise KDBenchError(
            f"none of {', '.join(BASELINES)} is planned: there is nothing that methods are compared with"
        )
    parts = list(boards(grid))
    own = {name: seen(part) for name, part in parts}
    elsewhere = [spread.std for spread in own.values() if spread]
    made = []
    for name, part in parts:
        spread = Spread(std, "assumed by --sd") if std is not None else own[name]
        if spread is None and elsewhere:
            spread = Spread(statistics.median(elsewhere), "seen at other places")
        tests = len(part.methods) - 1
        made += [(name, entry) for entry in reach(part, tests, spread or assumed(part), delta)]
    return made


def sentence(found: Sequence[Reach], baseline: str, score: Metric) -> str:
    """`3 seeds can tell differences to kd of about 0.85 points (...)`; nothing if there is nothing to say."""
    told = [entry for entry in found if math.isfinite(entry.told)]
    if not told:
        return f"Fewer than {LEAST_SEEDS} seeds tell no difference to {baseline}." if found else ""
    sizes = [with_unit(plain(entry.told, score.decimals), score.points) for entry in told]
    whose = [f" ({entry.methods} methods)" * (len(found) > 1) for entry in told]
    first, *others = [f"{entry.seeds} seeds{own}" for entry, own in zip(told, whose, strict=True)]
    spread = with_unit(plain(told[0].spread.std, score.decimals), score.points)
    return (
        f"{first} can tell differences to {baseline} of about {sizes[0]}"
        + "".join(f", {who} of about {size}" for who, size in zip(others, sizes[1:], strict=True))
        + f" (with a chance of {POWER:g}, after the correction for {told[0].tests} methods; paired differences spread"
        f" by {spread}, {told[0].spread.source})."
    )

"""The runs of a suite as arrays: one value per (method, seed, place). A place is a (data set, protocol, pair)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdbench.board import comparable
from kdbench.board.columns import as_meant
from kdbench.board.runs import COST, PLACE, place_name, result_columns
from kdbench.board.seen import class_of
from kdbench.board.statistics.intervals import DIGITS
from kdbench.errors import KDBenchError
from kdbench.tasks.metrics import Metrics

Place = tuple[str, str, str]  # data set, protocol, pair
STATES = ("failed", "not_applicable", "older_source", "other_engine", "missing")
UNPLANNED = "unplanned"  # what is no cell of the grid: a method may have fewer seeds than another


@dataclass(frozen=True)
class Grid:
    """Every method at every place with every seed of the grid.

    Attributes:
        metrics: of their task.
        methods: labels, in alphabetical order.
        names, families: one per method.
        seeds, places: sorted.
        teachers: how many each sees, `[methods, seeds, places]`.
        states: `done`, one of `STATES`, or `UNPLANNED`, `[methods, seeds, places]`.
        reasons: why not done, `[methods, seeds, places]`.
        values: column of the runs, as `kdbench.board.columns` calls it -> `[methods, seeds, places]`, NaN where not
            done or not measured.
        seen: what runs must share to be compared (`kdbench.board.comparable`) -> `[methods, seeds, places]`.
    """

    metrics: Metrics
    methods: tuple[str, ...]
    names: tuple[str, ...]
    families: tuple[str, ...]
    seeds: tuple[int, ...]
    places: tuple[Place, ...]
    teachers: np.ndarray
    states: np.ndarray
    reasons: np.ndarray
    values: dict[str, np.ndarray]
    seen: dict[str, np.ndarray]

    @property
    def scores(self) -> np.ndarray:
        """The primary score of the last epoch as it was measured, `[methods, seeds, places]`."""
        return self.values["score"]

    @property
    def merits(self) -> np.ndarray:
        """The scores, turned round where lower is better: here more is better, for what ranks, wins and closes gaps."""
        return self.metrics.primary.sign * self.scores

    @property
    def means(self) -> np.ndarray:
        """The merits averaged over a method's seeds, `[methods, places]`; NaN where one is not done."""
        seeds = self.planned.sum(1)
        sums = np.where(self.planned, self.merits, 0.0).sum(1)
        means: np.ndarray = np.divide(sums, seeds, out=np.full(seeds.shape, np.nan), where=seeds > 0)
        return means.round(DIGITS)

    @property
    def planned(self) -> np.ndarray:
        """Which runs are cells of the grid, `[methods, seeds, places]`."""
        planned: np.ndarray = self.states != UNPLANNED
        return planned

    @property
    def unfinished(self) -> np.ndarray:
        """Which of them are not done, `[methods, seeds, places]`."""
        unfinished: np.ndarray = self.planned & (self.states != "done")
        return unfinished

    @property
    def complete(self) -> np.ndarray:
        """Whether a method finished every run of its own, and has some at every place, `[methods]`."""
        some_everywhere = np.logical_and.reduce(np.logical_or.reduce(self.planned, 1), 1)
        complete: np.ndarray = ~np.logical_or.reduce(self.unfinished, (1, 2)) & some_everywhere & bool(self.places)
        return complete

    @property
    def classes(self) -> list[str]:
        """How many teachers each method sees at most: of `kdbench.board.seen.CLASSES`."""
        return [class_of(int(most)) for most in self.teachers.max((1, 2), initial=0)]

    def everywhere(self, *methods: int) -> np.ndarray:
        """The seeds that these methods have at every place, `[seeds]`."""
        seeds: np.ndarray = np.logical_and.reduce(self.planned[list(methods)], (0, 2))
        return seeds

    def counts(self, state: str) -> np.ndarray:
        """How many runs of each method are in a state, `[methods]`."""
        there: np.ndarray = self.states == state
        counts: np.ndarray = there.sum((1, 2))
        return counts

    def index(self, name: str) -> int | None:
        """The method of that label, or the one variant of it that ran (ImageNet's `kd` has weights of its own)."""
        if name in self.methods:
            return self.methods.index(name)
        variants = [m for m, own in enumerate(self.names) if own == name]
        return variants[0] if len(variants) == 1 else None

    def part(self, places: np.ndarray, seeds: np.ndarray | None = None) -> Grid:
        """Only these places and seeds, by index or mask."""

        def cut(array: np.ndarray) -> np.ndarray:
            return (array if seeds is None else array[:, seeds])[:, :, places]

        return dataclasses.replace(
            self,
            seeds=self.seeds if seeds is None else tuple(np.array(self.seeds)[seeds].tolist()),
            places=tuple(self.places[p] for p in np.arange(len(self.places))[places]),
            teachers=cut(self.teachers),
            states=cut(self.states),
            reasons=cut(self.reasons),
            values={name: cut(array) for name, array in self.values.items()},
            seen={name: cut(array) for name, array in self.seen.items()},
        )

    def only(self, methods: np.ndarray) -> Grid:
        """Only these methods, by index or mask."""
        kept = np.arange(len(self.methods))[methods]

        def cut(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[kept] for name, array in arrays.items()}

        return dataclasses.replace(
            self,
            methods=tuple(self.methods[m] for m in kept),
            names=tuple(self.names[m] for m in kept),
            families=tuple(self.families[m] for m in kept),
            teachers=self.teachers[kept],
            states=self.states[kept],
            reasons=self.reasons[kept],
            values=cut(self.values),
            seen=cut(self.seen),
        )

    def common(self) -> Grid:
        """Only the places where every method finished every seed, or, if there is none, only the seeds that every
        method finished everywhere. Methods without any finished run do not count.

        Raises:
            KDBenchError: if nothing is left.
        """
        unfinished = np.logical_or.reduce(self.unfinished[self.counts("done") > 0])  # [seeds, places]
        places, seeds = (~np.logical_or.reduce(unfinished, axis) for axis in (0, 1))
        if places.any():
            return self.part(places)
        if seeds.any():
            return self.part(np.full(len(self.places), True), seeds)
        raise KDBenchError("no place and no seed is finished by all methods: leave some out by --methods, or run more")


def make_grid(runs: pd.DataFrame, metrics: Metrics) -> Grid:
    """Arrange the rows of runs.csv (`kdbench.board.runs.runs_table`), whose task has these metrics.

    Raises:
        KDBenchError: if two runs stand at the same method, seed and place.
    """
    runs = as_meant(runs, metrics)
    methods, seeds = sorted(set(runs["method"])), sorted(set(runs["seed"]))
    where = list(zip(*(runs[name] for name in PLACE), strict=True))
    places = sorted(set(where))
    shape = len(methods), len(seeds), len(places)
    at = tuple(
        np.array([axis.index(value) for value in values], dtype=int)
        for axis, values in ((methods, runs["method"]), (seeds, runs["seed"]), (places, where))
    )
    if len(set(zip(*at, strict=True))) < len(runs):
        twice = runs[runs.duplicated([*PLACE, "method", "seed"])].iloc[0]
        raise KDBenchError(
            f"{twice['method']!r} ran twice on {twice['pair']!r} with seed {twice['seed']}: take the older records out"
        )

    def arranged(values: pd.Series, empty: object, dtype: type) -> np.ndarray:
        array: np.ndarray = np.full(shape, empty, dtype=dtype)
        array[at] = values.to_numpy(dtype)
        return array

    done = runs["status"] == "done"
    first = runs.drop_duplicates("method").set_index("method")
    numbers = ("teacher_score", *result_columns(metrics), *COST)
    return Grid(
        metrics,
        tuple(methods),
        tuple(first.loc[methods, "name"]),
        tuple(first.loc[methods, "family"]),
        tuple(seeds),
        tuple(places),
        arranged(runs["teachers"], 0, int),
        arranged(runs["status"], UNPLANNED, object),
        arranged(runs["reason"], "", object),
        {name: arranged(runs[name].astype(float).where(done), np.nan, float) for name in numbers},
        {key: arranged(runs["id"].map(runs.attrs.get(key, {})), None, object) for key in comparable.DIFFERENT},
    )


def left_out(whole: Grid, common: Grid) -> str:
    """What `common` lacks of `whole`, and whose runs are missing there; nothing if all methods finished all."""
    some: np.ndarray = whole.counts("done") > 0
    open_ = whole.unfinished & some[:, None, None]
    dropped = {place_name(place): open_[:, :, p] for p, place in enumerate(whole.places) if place not in common.places}
    counts = f"{len(common.places)} of {len(whole.places)} pairs"
    if not dropped:
        dropped = {f"seed {seed}": open_[:, s] for s, seed in enumerate(whole.seeds) if seed not in common.seeds}
        counts = f"{len(common.seeds)} of {len(whole.seeds)} seeds"
    reasons = [f"{what} (not finished by {', '.join(_of(whole, part.any(1)))})" for what, part in dropped.items()]
    parts = [f"Ranked over {counts}; left out: {'; '.join(reasons)}"] if reasons else []
    parts += [f"Not ranked, for nothing is finished: {', '.join(_of(whole, ~some))}"] if not some.all() else []
    return ". ".join(parts)


def _of(grid: Grid, which: np.ndarray) -> list[str]:
    return [grid.methods[m] for m in np.flatnonzero(which)]

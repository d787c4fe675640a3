"""The runs of a suite as arrays: one value per (method, seed, place). A place is a (data set, protocol, pair)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdbench.board import comparable
from kdbench.board.columns import as_meant
from kdbench.board.runs import COST, PLACE, SOMETIMES, UNTIMED, place_name, protocol_of, result_columns
from kdbench.board.seen import class_of
from kdbench.board.statistics.intervals import DIGITS
from kdbench.errors import KDBenchError
from kdbench.tasks.metrics import Metrics

Place = tuple[str, str, str]  # data set, protocol, pair
STATES = ("failed", "not_applicable", "older_source", "other_engine", "missing")
UNPLANNED = "unplanned"  # no run was to be made: a suite may plan other methods for a pair, other seeds for a method


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
        untimed: why a finished run has no ratio of time, `[methods, seeds, places]`.
        seen: what runs must share to be compared (`kdbench.board.comparable`) -> `[methods, seeds, places]`.
        students: the student network of each place.
        trials: one per method: how many chose its settings, 0 where none did.
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
    untimed: np.ndarray
    seen: dict[str, np.ndarray]
    students: tuple[str, ...]
    trials: tuple[int, ...]

    @property
    def scores(self) -> np.ndarray:
        """The primary score of the last epoch as it was measured, `[methods, seeds, places]`."""
        return self.values["score"]

    @property
    def merits(self) -> np.ndarray:
        """The scores, turned round where lower is better: here more is better, for what ranks, wins and closes gaps."""
        return self.metrics.primary.sign * self.scores

    @property
    def planned(self) -> np.ndarray:
        """Which runs were to be made, `[methods, seeds, places]`."""
        planned: np.ndarray = self.states != UNPLANNED
        return planned

    @property
    def elsewhere(self) -> np.ndarray:
        """At which places a method was to make no run, `[methods, places]`."""
        elsewhere: np.ndarray = ~np.asarray(self.planned.any(1))
        return elsewhere

    @property
    def means(self) -> np.ndarray:
        """The merits averaged over a method's seeds, `[methods, places]`; NaN where one is not done."""
        sums = np.where(self.planned, self.merits, 0.0).sum(1)
        return np.where(self.elsewhere, np.nan, sums / self.planned.sum(1).clip(1)).round(DIGITS)

    @property
    def complete(self) -> np.ndarray:
        """Whether a method finished every run that it was to make, and was to make one at every place, `[methods]`."""
        finished: np.ndarray = ((self.states == "done") | ~self.planned).all((1, 2)) & ~self.elsewhere.any(1)
        return finished & bool(self.places)

    def whole_seeds(self, m: int) -> np.ndarray:
        """The seeds that a method finished at every place, as a mask, `[seeds]`."""
        whole: np.ndarray = (self.states[m] == "done").all(1)
        return whole

    @property
    def classes(self) -> list[str]:
        """How many teachers each method sees at most: of `kdbench.board.seen.CLASSES`."""
        return [class_of(int(most)) for most in self.teachers.max((1, 2), initial=0)]

    def counts(self, state: str) -> np.ndarray:
        """How many runs of each method are in a state, `[methods]`."""
        there: np.ndarray = self.states == state
        counts: np.ndarray = there.sum((1, 2))
        return counts

    def index(self, name: str, beside: int | None = None) -> int | None:
        """The method of that label, or the one variant of it that ran (ImageNet's `kd` has weights of its own).

        Args:
            beside: a method that it is a baseline of: of a tuned one the tuned row.
        """
        tuned = beside is not None and self.trials[beside] > 0
        if name in self.methods and not tuned:
            return self.methods.index(name)
        variants = [m for m, own in enumerate(self.names) if own == name and (self.trials[m] > 0) == tuned]
        return variants[0] if len(variants) == 1 else None

    def part(self, places: np.ndarray, seeds: np.ndarray | None = None) -> Grid:
        """Only these places and seeds, by index or mask."""

        def cut(array: np.ndarray) -> np.ndarray:
            return (array if seeds is None else array[:, seeds])[:, :, places]

        return dataclasses.replace(
            self,
            seeds=self.seeds if seeds is None else tuple(np.array(self.seeds)[seeds].tolist()),
            places=tuple(self.places[p] for p in np.arange(len(self.places))[places]),
            students=tuple(self.students[p] for p in np.arange(len(self.places))[places]),
            teachers=cut(self.teachers),
            states=cut(self.states),
            reasons=cut(self.reasons),
            values={name: cut(array) for name, array in self.values.items()},
            untimed=cut(self.untimed),
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
        some = self.counts("done") > 0
        lacking = _lacking(self)[some]  # [methods, seeds, places]
        if (places := ~lacking.any((0, 1))).any():
            return self.part(places)
        seeds: np.ndarray = (self.states == "done")[some].all((0, 2))
        if seeds.any():
            return self.part(np.full(len(self.places), True), seeds)
        raise KDBenchError("no place and no seed is finished by all methods: leave some out by --methods, or run more")


def make_grid(runs: pd.DataFrame, metrics: Metrics, plan: Iterable[Mapping[str, Any]] = ()) -> Grid:
    """Arrange the rows of runs.csv (`kdbench.board.runs.runs_table`), whose task has these metrics.

    Args:
        plan: the grid's cells (`kdbench.board.results.grid_rows`); none: every method with every seed at every place.

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

    at_hand: np.ndarray = np.zeros(shape, dtype=bool)
    at_hand[at] = True
    done = runs["status"] == "done"
    students = dict(zip(where, runs["student"], strict=True))
    first = runs.drop_duplicates("method").set_index("method")
    numbers = ("teacher_score", *result_columns(metrics), *COST, *(name for name in SOMETIMES if name in runs))
    trials = runs.groupby("method")["trials"].max().fillna(0) if "trials" in runs else pd.Series(0, methods)
    return Grid(
        metrics,
        tuple(methods),
        tuple(first.loc[methods, "name"]),
        tuple(first.loc[methods, "family"]),
        tuple(seeds),
        tuple(places),
        arranged(runs["teachers"], 0, int),
        np.where(
            at_hand | _planned(plan, methods, seeds, places), arranged(runs["status"], "missing", object), UNPLANNED
        ),
        arranged(runs["reason"], "", object),
        {name: arranged(runs[name].astype(float).where(done), np.nan, float) for name in numbers},
        arranged(runs[UNTIMED], "", object),
        {key: arranged(runs["id"].map(runs.attrs.get(key, {})), None, object) for key in comparable.DIFFERENT},
        tuple(students[place] for place in places),
        tuple(trials[methods].astype(int)),
    )


def _planned(
    plan: Iterable[Mapping[str, Any]], methods: list[str], seeds: list[int], places: list[Place]
) -> np.ndarray:
    """Which runs were to be made, `[methods, seeds, places]`; of a method that nobody planned, those that were to be
    made of every method of a place.
    """
    planned: np.ndarray = np.zeros((len(methods), len(seeds), len(places)), dtype=bool)
    for row in plan:
        place = row["dataset"], protocol_of(row), row["pair"]
        planned[methods.index(row["label"]), seeds.index(row["seed"]), places.index(place)] = True
    mine: Any = planned.any(1)  # [methods, places]
    of_all: np.ndarray = (planned | ~mine[:, None]).all(0)
    planned[~mine.any(1)] = of_all & (mine.any(0) | ~planned.any())
    return planned


def left_out(whole: Grid, common: Grid) -> str:
    """What `common` lacks of `whole`, and whose runs are missing there; nothing if all methods finished all."""
    some = whole.counts("done") > 0
    open_ = _lacking(whole) & some[:, None, None]
    dropped = {place_name(place): open_[:, :, p] for p, place in enumerate(whole.places) if place not in common.places}
    counts = f"{len(common.places)} of {len(whole.places)} pairs"
    if not dropped:
        open_ = (whole.states != "done") & some[:, None, None]
        dropped = {f"seed {seed}": open_[:, s] for s, seed in enumerate(whole.seeds) if seed not in common.seeds}
        counts = f"{len(common.seeds)} of {len(whole.seeds)} seeds"
    reasons = [f"{what} (not finished by {', '.join(_of(whole, part.any(1)))})" for what, part in dropped.items()]
    parts = [f"Ranked over {counts}; left out: {'; '.join(reasons)}"] if reasons else []
    parts += [f"Not ranked, for nothing is finished: {', '.join(_of(whole, ~some))}"] if not some.all() else []
    return ". ".join(parts)


def _lacking(grid: Grid) -> Any:
    """Runs that are not done, `[methods, seeds, places]`; of those nobody planned, only where a place has no other."""
    return (grid.states != "done") & (grid.planned | grid.elsewhere[:, None])


def _of(grid: Grid, which: np.ndarray) -> list[str]:
    return [grid.methods[m] for m in np.flatnonzero(which)]

"""The trials of a sweep: values drawn from search spaces, and the cells that try them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdbench import registry
from kdbench.registry.spaces import at_values, space_of
from kdbench.space import Around, Dimension
from kdbench.suites.grid import PLAIN, Cell, DatasetSpec, MethodSpec, Pair, Suite, plain
from kdbench.suites.recipe import Recipe
from kdbench.suites.sweep import VALIDATION, Sweep

FOLDER = "sweep"  # in a suite's folder: the trials' records
SETTINGS = "sweep.json"  # in that folder: the `Sweep` by which they were made
RECIPE = "recipe."  # before the name of what is the recipe's
# what the plain student's trials search beside its own hyperparameters
RECIPE_SPACE: Mapping[str, Dimension] = {"learning_rate": Around(4.0), "weight_decay": Around(10.0)}
ROUNDS = 100  # after so many draws in vain a value may come twice

Values = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a choice is made: one data set, protocol and pair.

    Attributes:
        cells: label -> a trial's cell with the suite's own setting, whose data set has the validation split.
    """

    dataset: DatasetSpec
    pair: str
    cells: Mapping[str, Cell]

    @property
    def key(self) -> tuple[str, str, str]:
        return key_of(self.dataset, self.pair)


@dataclass(frozen=True)
class Trials:
    """Those of one method, or of the recipe, at one place.

    Attributes:
        label: of the method.
        space: what is searched there.
        values: of each trial; the first has the suite's own.
        cells: one per trial.
    """

    label: str
    space: Mapping[str, Dimension]
    values: Sequence[Values]
    cells: Sequence[Cell]

    @cached_property
    def table(self) -> dict[str, Any]:
        """The space, as records have it."""
        return {name: dimension.table for name, dimension in self.space.items()}


def places(suite: Suite, sweep: Sweep) -> Iterator[Place]:
    """Where the suite's methods are tuned, in its order. Trials are the same whatever is chosen of a suite: seeds of
    single methods and pairs are of its results, and its plain student tunes the recipe though it has no row there.
    """
    methods = suite.methods
    if not any(spec.name == PLAIN for spec in methods):
        methods = (suite.tuner or MethodSpec(PLAIN), *methods)
    methods = tuple(dataclasses.replace(spec, seeds=()) for spec in methods)
    suite = dataclasses.replace(suite, methods=methods)
    pairs = tuple(_with_plain(suite, dataclasses.replace(pair, seeds=())) for pair in suite.pairs)
    for dataset in suite.datasets:
        split = {**dataset.protocol, VALIDATION: {"fraction": sweep.fraction}}
        narrowed = dataclasses.replace(
            suite,
            name=f"{suite.name}/{FOLDER}",
            datasets=(dataclasses.replace(dataset, protocol=split),),
            pairs=pairs,
            seeds=(sweep.seed,),
        )
        found: dict[str, dict[str, Cell]] = {}
        for cell in narrowed.cells():
            cell = dataclasses.replace(cell, recipe=shortened(cell.recipe, sweep.share))
            found.setdefault(str(cell.pair), {}).setdefault(cell.method.label, cell)
        for pair, cells in found.items():
            yield Place(dataset, pair, cells)


def _with_plain(suite: Suite, pair: Pair) -> Pair:
    """A pair that has the plain student among its methods."""
    there = any(spec.name == PLAIN for spec in suite.methods_of(pair))
    return pair if there else dataclasses.replace(pair, methods=(*pair.methods, PLAIN))


def key_of(dataset: DatasetSpec, pair: object) -> tuple[str, str, str]:
    """A place by name: data set, protocol, pair."""
    theirs = "" if dataset.teacher_protocol is None else f"; teachers: {plain(dataset.teacher_protocol)}"
    return dataset.name, f"{plain(dataset.protocol)}{theirs}", str(pair)


def shortened(recipe: Recipe, share: float) -> Recipe:
    """The recipe of a trial: a share of the epochs, scored after the last one."""
    named = [name for name in ("epochs", "updates") if getattr(recipe, name, 0)]
    lengths: Values = {name: max(1, round(getattr(recipe, name) * share)) for name in named}
    epochs = lengths.get("epochs", recipe.epochs)
    warmup = round(recipe.warmup_epochs * share)
    return dataclasses.replace(recipe, **lengths, warmup_epochs=warmup, evaluate_every=epochs or 1)


def plain_label(place: Place) -> str:
    """The plain student, whose trials choose the recipe: the one without settings, else the first of that name."""
    labels = [label for label, cell in place.cells.items() if cell.method.name == PLAIN]
    return PLAIN if PLAIN in labels else labels[0]


def recipe_trials(place: Place, sweep: Sweep) -> Trials:
    """The plain student's, over the recipe and its own hyperparameters."""
    cell = place.cells[plain_label(place)]
    own = {f"{RECIPE}{name}": getattr(cell.recipe, name) for name in RECIPE_SPACE} | _own(cell.method)
    searched = {f"{RECIPE}{name}": dimension for name, dimension in RECIPE_SPACE.items()}
    return _trials(cell, {**searched, **space_of(registry.get(PLAIN))}, own, sweep)


def method_trials(place: Place, label: str, recipe: Values, sweep: Sweep) -> Trials:
    """One method's, over its own hyperparameters.

    Args:
        recipe: what the plain student's trials chose of the recipe.
    """
    cell = place.cells[label]
    cell = dataclasses.replace(cell, recipe=dataclasses.replace(cell.recipe, **recipe))
    return _trials(cell, space_of(registry.get(cell.method.name)), _own(cell.method), sweep)


def _own(spec: MethodSpec) -> Values:
    return registry.resolve(spec.name, dict(spec.hyperparameters))


def _trials(cell: Cell, space: Mapping[str, Dimension], own: Values, sweep: Sweep) -> Trials:
    around = at_values(space, own)
    drawn = draw(around, {name: own[name] for name in around}, sweep.trials, cell.method.name)
    cells = [_tried(cell, values, number) for number, values in enumerate(drawn)]
    return Trials(cell.method.label, around, drawn, cells)


def _tried(cell: Cell, values: Values, number: int) -> Cell:
    spec = cell.method
    title = f"{spec.label} (trial {number})"
    return with_values(cell, values, title)


def with_values(cell: Cell, values: Mapping[str, Any], title: str) -> Cell:
    """The cell with these values of its recipe and its method."""
    recipe, own = split(values)
    method = MethodSpec(cell.method.name, {**cell.method.hyperparameters, **own}, title)
    return dataclasses.replace(cell, method=method, recipe=dataclasses.replace(cell.recipe, **recipe))


def split(values: Mapping[str, Any]) -> tuple[Values, Values]:
    """What of a trial's values is the recipe's, and what the method's."""
    recipe = {name.removeprefix(RECIPE): value for name, value in values.items() if name.startswith(RECIPE)}
    return recipe, {name: value for name, value in values.items() if not name.startswith(RECIPE)}


def draw(space: Mapping[str, Dimension], own: Values, trials: int, name: str) -> list[Values]:
    """The values of each trial: first one's own, then points of a scrambled Halton sequence, each once.

    More trials go on where fewer ended, and other methods change nothing: the sequence is seeded by `name` and the
    names of what is searched. A space that has fewer points than `trials` is searched whole.

    Args:
        own: the values of trial 0, which may lie outside of the space.
    """
    wanted = points(space, own, trials)
    found = [dict(own)]
    for attempt, values in enumerate(_sequence(space, name) if wanted > 1 else ()):
        if values not in found or attempt > ROUNDS * wanted:
            found.append(values)
        if len(found) == wanted:
            break
    return found


def points(space: Mapping[str, Dimension], own: Values, trials: int) -> int:
    """How many trials there are: as many as all methods get, or the whole of a smaller space."""
    inside = all(dimension.holds(own[name]) for name, dimension in space.items())
    size = math.prod(dimension.count for dimension in space.values()) + (not inside)
    return trials if size >= trials else int(size)


def _sequence(space: Mapping[str, Dimension], name: str) -> Iterator[Values]:
    from scipy.stats import qmc  # not at the top: it takes a while, and needs what loads torch

    from kdbench.seeding import derive_seed

    names = sorted(space)
    sequence = qmc.Halton(len(names), scramble=True, seed=derive_seed("sweep", name, *names) % 2**32)
    for _ in itertools.count():
        shares = sequence.random(1)[0]
        drawn = {key: space[key].at(float(share)) for key, share in zip(names, shares, strict=True)}
        yield {key: drawn[key] for key in space}

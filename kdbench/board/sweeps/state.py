"""How far a suite's sweep is: its trials, what their records choose, and the cells that train the choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdbench.board.sweeps.choice import Outcome, Read, chosen, outcomes, rule
from kdbench.errors import KDBenchError
from kdbench.suites.grid import Cell, MethodSpec, Suite
from kdbench.suites.sweep import Sweep
from kdbench.suites.trials import (
    RECIPE,
    Place,
    Trials,
    key_of,
    method_trials,
    places,
    plain_label,
    recipe_trials,
    split,
    with_values,
)
from kdbench.tasks.metrics import of

TUNED = " (tuned)"  # behind the label of a tuned row


@dataclass(frozen=True)
class Search:
    """One method's trials at one place, or the recipe's.

    Attributes:
        found: what came of each; None while one is missing.
        choice: the number of the best; None without one.
    """

    place: Place
    trials: Trials
    found: list[Outcome] | None
    choice: int | None

    @property
    def table(self) -> dict[str, Any]:
        """As a tuned record has it."""
        return {"space": self.trials.table, "trials": self.found, "choice": self.choice}

    @property
    def values(self) -> dict[str, Any]:
        """Those of the choice."""
        assert self.choice is not None
        return dict(self.trials.values[self.choice])


@dataclass
class Sweeping:
    """A suite's sweep, as its records have it.

    Attributes:
        suite: with the methods that are tuned.
        sweep: how.
        read: gives a trial's record.
    """

    suite: Suite
    sweep: Sweep
    read: Read
    _searches: dict[tuple[tuple[str, str, str], str], Search] = field(default_factory=dict)

    @cached_property
    def places(self) -> list[Place]:
        return list(places(self.suite, self.sweep))

    def recipe(self, place: Place) -> Search:
        """The recipe's trials at a place."""
        return self._search(place, "", lambda: recipe_trials(place, self.sweep))

    def method(self, place: Place, label: str) -> Search | None:
        """A method's trials at a place; the plain student's are the recipe's. None while the recipe is not chosen."""
        recipe = self.recipe(place)
        if label == plain_label(place) or recipe.choice is None:
            return recipe if label == plain_label(place) else None
        values, _ = split(recipe.values)
        return self._search(place, label, lambda: method_trials(place, label, values, self.sweep))

    def _search(self, place: Place, label: str, make: Callable[[], Trials]) -> Search:
        key = place.key, label
        if key not in self._searches:
            trials = make()
            found = outcomes(trials, self.read)
            metric = of(place.dataset.task).primary
            self._searches[key] = Search(place, trials, found, chosen(found, metric) if found is not None else None)
        return self._searches[key]

    def recipe_cells(self) -> list[Cell]:
        """The first stage: the plain student's trials everywhere."""
        return [cell for place in self.places for cell in self.recipe(place).trials.cells]

    def method_cells(self) -> list[Cell]:
        """The second stage: the trials of all other methods, which begin when the recipe is chosen.

        Raises:
            KDBenchError: if no trial of the plain student finished at a place.
        """
        for place in self.places:
            recipe = self.recipe(place)
            if recipe.found is not None and recipe.choice is None:
                raise KDBenchError(
                    f"none of the {len(recipe.found)} trials of the plain student on {place.pair} finished, so that "
                    f"there is no recipe to tune with: {_reason(self.read, recipe.found)}"
                )
        searches = [self.method(place, label) for place in self.places for label in self.labels(place)]
        return [cell for search in searches if search for cell in search.trials.cells]

    def all_cells(self) -> list[Cell]:
        """The trials of both stages; of methods whose recipe is not chosen yet with the suite's own."""
        cells = self.recipe_cells()
        for place in self.places:
            for label in self.labels(place):
                search = self.method(place, label)
                cells += search.trials.cells if search else method_trials(place, label, {}, self.sweep).cells
        return cells

    def labels(self, place: Place) -> list[str]:
        """The methods that have trials of their own at a place, by label."""
        return [label for label in place.cells if label != plain_label(place)]

    def missing(self) -> tuple[int, int]:
        """How many trials have no record, and how many there are. Those that wait for the recipe are all missing."""
        lost = total = 0
        for place in self.places:
            recipe = self.recipe(place)
            for search in (recipe, *(self.method(place, label) for label in self.labels(place))):
                cells = search.trials.cells if search else ()
                total += len(cells) or self.sweep.trials
                lost += sum(self.read(cell.id) is None for cell in cells) if search else self.sweep.trials
        return lost, total

    def searches(self) -> Iterator[tuple[str, Search]]:
        """Every finished search of a method of the suite, by label, place after place."""
        for place in self.places:
            for label in (spec.label for spec in self.suite.methods if spec.label in place.cells):
                search = self.method(place, label)
                if search and search.found is not None:
                    yield label, search

    def cells(self) -> list[Cell]:
        """The cells that train the choices, with the suite's seeds (`Suite.tuned_seeds`), in its order. A method of
        which no trial finished at a place has none there.
        """
        tuned = {(search.place.key, label): search for label, search in self.searches() if search.choice is not None}
        by_key = {place.key: place for place in self.places}
        planned = [((key_of(cell.dataset, cell.pair), cell.method.label), cell) for cell in self.suite.cells()]
        seeds: dict[tuple[tuple[str, str, str], str], list[int]] = {}
        for key, cell in planned:
            seeds.setdefault(key, []).append(cell.seed)
        wanted = {key: self.suite.tuned_seeds(own) for key, own in seeds.items()}
        return [
            self._tuned(cell, tuned[key], self.recipe(by_key[key[0]]))
            for key, cell in planned
            if key in tuned and cell.seed in wanted[key]
        ]

    def _tuned(self, cell: Cell, search: Search, recipe: Search) -> Cell:
        values, _ = split(recipe.values)
        _, own = split(search.values)
        tuning = {
            "rule": rule(of(cell.dataset.task).primary),
            "sweep": self.sweep.table,
            "recipe": {**recipe.table, "values": values},
            **search.table,
        }
        of_recipe = {f"{RECIPE}{name}": value for name, value in values.items()}
        made = with_values(cell, {**of_recipe, **own}, self._title(cell.method))
        return dataclasses.replace(made, tuning=tuning)

    def _title(self, spec: MethodSpec) -> str:
        """A tuned row's label: without the suite's own settings, which are not its, where the name alone is clear."""
        alone = sum(other.name == spec.name for other in self.suite.methods) == 1
        return (spec.name if alone and not spec.title else spec.label) + TUNED


def _reason(read: Read, found: Sequence[Outcome]) -> str:
    record = read(found[0]["id"])
    return record["reason"] if record else ""

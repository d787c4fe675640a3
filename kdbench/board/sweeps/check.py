"""Is a tuned row what `kdbench sweep` and `kdbench run --tuned` make? Its trials, their number, the choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.board.publishing.problem import Problem, shown
from kdbench.board.sweeps.choice import chosen
from kdbench.board.sweeps.published import trials_named
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.space import read
from kdbench.suites.grid import PLAIN
from kdbench.suites.sweep import VALIDATION
from kdbench.suites.trials import FOLDER, points, split
from kdbench.tasks.metrics import of

METHOD = "cell.method"


def faults(records: Mapping[str, Record], trials: Mapping[str, Record], suite: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the tuned rows of a published suite.

    Args:
        records: those of its tables, by id.
        trials: the records of its trials, by id.
        suite: its table (`kdbench.board.results.suite_table`).
    """
    tuned = {identity: record for identity, record in records.items() if record["cell"]["method"].get("tuned")}
    for identity, record in tuned.items():
        yield from _Row(f"records/{identity}.json", record, trials, suite).faults()
    yield from _unequal(tuned)
    named = {identity for record in tuned.values() for identity in trials_named(record)}
    for identity in sorted(trials.keys() - named):
        yield Problem(f"{FOLDER}/records/{identity}.json", "no tuned row names this trial: publish again")


def _unequal(records: Mapping[str, Record]) -> Iterator[Problem]:
    """Rows that had other budgets than the first, or at their place another recipe."""
    budgets: dict[str, str] = {}
    recipes: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for identity, record in records.items():
        cell, tuning, file = record["cell"], record["cell"]["method"]["tuning"], f"records/{identity}.json"
        for key, value in tuning["sweep"].items():
            first = budgets.setdefault(key, value)
            if value != first:
                yield Problem(file, f"other rows have {first}: all methods get the same", f"tuning.sweep.{key}", value)
        place = cell["dataset"], str(cell["protocol"]), cell["pair"]
        recipe = _without_times(tuning["recipe"])
        other, first = recipes.setdefault(place, (identity, recipe))
        if recipe != first:
            rule = f"records/{other}.json has another there: the recipe is one for all tuned rows of a place"
            yield Problem(file, rule, "tuning.recipe")


def _without_times(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides: two folders that were merged ran the same trials, each in its own time."""
    return {**recipe, "trials": [{**trial, "seconds": None} for trial in recipe["trials"]]}


class _Row:
    """One record of a tuned row, held against the records of its trials."""

    def __init__(self, file: str, record: Record, trials: Mapping[str, Record], suite: Mapping[str, Any]) -> None:
        self.file, self.cell, self.trials, self.suite = file, record["cell"], trials, suite
        self.tuning: Mapping[str, Any] = record["cell"]["method"]["tuning"]
        self.metric = of(self.cell["task"]).primary

    def faults(self) -> Iterator[Problem]:
        yield from self._part("recipe", self.tuning["recipe"], PLAIN)
        recipe = self.tuning["recipe"]
        best = self._best(recipe)
        values = split(recipe["trials"][best]["values"])[0] if best is not None else {}
        if best is not None and values != recipe["values"]:
            yield self._problem("recipe.values", recipe["values"], f"the trial that is chosen has {shown(values)}")
        yield from self._part("", self.tuning, self.cell["method"]["name"])
        yield from self._trained_as_chosen()

    def _problem(self, where: str, value: Any, rule: str) -> Problem:
        return Problem(self.file, rule, f"{METHOD}.tuning.{where}".rstrip("."), value)

    def _part(self, name: str, part: Mapping[str, Any], method: str) -> Iterator[Problem]:
        """The trials of the recipe, or of the method: their number, their records, the choice among them."""
        where = f"{name}." * bool(name)
        trials = part["trials"]
        try:
            space = {key: read(table) for key, table in part["space"].items()}
            wanted = points(space, trials[0]["values"], self.tuning["sweep"]["trials"]) if trials else 1
        except (KDBenchError, KeyError) as error:
            yield self._problem(f"{where}space", part["space"], f"it is no search space ({error})")
            return
        if len(trials) != wanted:
            rule = f"it has {len(trials)} trials, and every method gets {wanted}"
            yield self._problem(f"{where}trials", len(trials), rule)
        for number, trial in enumerate(trials):
            yield from self._trial(f"{where}trials[{number}]", trial, method)
        best = self._best(part)
        if part["choice"] != best:
            rule = f"by the scores on the validation split it is {best}: {self.tuning['rule']}"
            yield self._problem(f"{where}choice", part["choice"], rule)

    def _best(self, part: Mapping[str, Any]) -> int | None:
        """The choice, by the trials' own records where they are there."""
        return chosen([{**trial, "score": self._score(trial)} for trial in part["trials"]], self.metric)

    def _score(self, trial: Mapping[str, Any]) -> Any:
        record = self.trials.get(trial["id"])
        if record is None:
            return trial["score"]
        return record["result"][self.metric.name] if record["status"] == "done" else None

    def _trial(self, where: str, trial: Mapping[str, Any], method: str) -> Iterator[Problem]:
        record = self.trials.get(trial["id"])
        if record is None:
            yield self._problem(where, trial["id"], f"its record is not in {FOLDER}/records: publish the suite again")
            return
        if (trial["status"], trial["score"]) != (record["status"], self._score(trial)):
            yield self._problem(f"{where}.score", trial["score"], f"its own record has {self._score(trial)}")
        cell, recipe = record["cell"], record["cell"]["recipe"]
        of_recipe, own = split(trial["values"])
        if cell["method"]["name"] != method:
            yield self._problem(where, trial["id"], f"its record is of method {cell['method']['name']!r}")
        told = {
            **{key: recipe.get(key) for key in of_recipe},
            **{k: cell["method"]["hyperparameters"].get(k) for k in own},
        }
        if told != {**of_recipe, **own}:
            yield self._problem(f"{where}.values", trial["values"], f"its own record has {shown(told)}")
        yield from self._conditions(where, trial["id"], record)

    def _conditions(self, where: str, identity: str, record: Record) -> Iterator[Problem]:
        """A trial is scored on the validation split, with a seed of its own, where the row is."""
        cell, sweep = record["cell"], self.tuning["sweep"]
        split_ = cell["protocol"].get(VALIDATION)
        if split_ is None:
            yield self._problem(where, identity, "the trial was scored on the test set, not on a validation split")
        elif split_.get("fraction") != sweep["fraction"]:
            yield self._problem(where, identity, f"its validation split is {split_}, not {sweep['fraction']}")
        if cell["seed"] in self.suite["seeds"]:
            yield self._problem(where, identity, f"the trial has seed {cell['seed']}, which is one of the results")
        elif cell["seed"] != sweep["seed"]:
            yield self._problem(where, identity, f"the trial has seed {cell['seed']}, not {sweep['seed']}")
        own = {key: value for key, value in cell["protocol"].items() if key != VALIDATION}
        there = [cell["dataset"], own, cell["student"], [t["network"] for t in cell["teachers"][:1]]]
        mine = self.cell
        here = [mine["dataset"], mine["protocol"], mine["student"], [t["network"] for t in mine["teachers"][:1]]]
        if there != here:
            yield self._problem(where, identity, "the trial ran on other data or other networks than the row")
        full, part = mine["recipe"], cell["recipe"]
        key = "updates" if full.get("updates") else "epochs"
        length = max(1, round(full[key] * sweep["share"]))
        if part.get(key) != length:
            yield self._problem(where, identity, f"the trial has {part.get(key)} {key}, and all of them get {length}")

    def _trained_as_chosen(self) -> Iterator[Problem]:
        trials, choice = self.tuning["trials"], self.tuning["choice"]
        values = dict(trials[choice]["values"]) if 0 <= choice < len(trials) else {}
        wanted = {**{f"recipe.{key}": value for key, value in self.tuning["recipe"]["values"].items()}, **values}
        of_recipe, own = split(wanted)
        for part, given in (("recipe", of_recipe), ("method.hyperparameters", own)):
            mine: Mapping[str, Any] = (
                self.cell["recipe"] if part == "recipe" else self.cell["method"]["hyperparameters"]
            )
            for key, value in given.items():
                if mine.get(key) != value:
                    yield Problem(self.file, f"the sweep chose {value!r}", f"cell.{part}.{key}", mine.get(key))

"""`kdbench reproduce`: a paper's table as cells of kdbench, under the paper's recipe and its weights for each pair.

What papers report stands in `results/reported`, and what the recipes' names there mean in `recipes.toml` beside each
task's tables; docs/papers.md explains both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from kdbench import registry
from kdbench.errors import KDBenchError, unknown
from kdbench.papers.pairs import pair_of
from kdbench.papers.recipes import ANY, PaperRecipe, load_recipes, resolve_recipe
from kdbench.papers.reported import (
    TEACHER,
    UNKNOWN,
    Reported,
    by_paper,
    load_all,
    load_other,
    of_method,
    parse_label,
)
from kdbench.records import CellConfig, MethodConfig, Store, stores
from kdbench.registry import applies
from kdbench.registry.composition import split
from kdbench.suites import parse
from kdbench.suites.grid import BASELINES, Cell, MethodSpec
from kdbench.suites.published_teachers import taken, teacher_file

SEEDS = 3  # where the paper does not say how many runs it has, or has a single one


@dataclass(frozen=True)
class Choice:
    """What the command line narrows or changes; empty: everything, as the paper has it."""

    paper: str = ""
    datasets: Sequence[str] = ()
    pairs: Sequence[str] = ()
    seeds: Sequence[int] = ()
    epochs: int | None = None
    precision: str = "auto"
    teachers: Sequence[str] = ()  # `network=file`


@dataclass(frozen=True)
class Protocol:
    """A paper's table: its values in order, with the cells that measure them, and the suite of each recipe."""

    method: str
    paper: str
    entries: tuple[Entry, ...]
    recipes: Mapping[str, str] = field(default_factory=dict)

    @property
    def suite(self) -> str:
        """The folder of its results."""
        return folder_of(self.method)

    @property
    def cells(self) -> list[Cell]:
        """Each cell once."""
        return list({cell.id: cell for entry in self.entries for cell in entry.cells}.values())


def folder_of(method: str) -> str:
    """The suite's name under which a method's table is run."""
    return f"reproduce-{method}"


def protocol(method: str, choice: Choice | None = None, folder: Path | None = None) -> Protocol:
    """The table that a method is to reproduce: the earliest paper's that has it in rows kdbench can run.

    That is its own paper, of which every row counts, or the first one that compares with it, of which only the
    method's rows count and those of the baselines. Baselines that the table lacks are added without a value.

    Args:
        method: a registered name, or a composition.
        folder: of the tables and `recipes.toml`; None: those that come with kdbench.

    Raises:
        KDBenchError: for an unknown method, one that no table has, or a choice that fits nothing.
    """
    choice = choice or Choice()
    info = registry.get(method).info
    rows = load_all(folder)
    papers: dict[str, list[Reported]] = {}  # a paper has one task here; those of image classification come first
    for task in dict.fromkeys(row.task for row in rows):
        for name, own in by_paper(of_method((row for row in rows if row.task == task), info.name)).items():
            papers.setdefault(name, own)
    if not papers:
        raise KDBenchError(_nothing(info.name, folder))
    if choice.paper:
        fitting = {paper: own for paper, own in papers.items() if choice.paper.lower() in paper.lower()}
        if not fitting:
            raise unknown("paper", choice.paper, papers, f"of those with a value of {info.name!r}")
        papers = fitting
    builder = _Builder(folder_of(info.name), folder, choice)
    runnable = (paper for paper, own in papers.items() if any(builder.cells(row, row.method, (0,))[0] for row in own))
    paper = next(runnable, next(iter(papers)))
    mine = _narrow(papers[paper], choice)
    complete = info.paper is not None and info.paper.year == mine[0].year
    kept = {row.method for row in mine}
    table = [row for row in rows if row.paper == paper and row.task == mine[0].task]
    entries: list[Entry] = []
    for place in dict.fromkeys((row.dataset, row.pair) for row in mine):
        here = [row for row in table if (row.dataset, row.pair) == place]
        here = [row for row in here if complete or row.method in kept or row.name in (TEACHER, *BASELINES)]
        entries += builder.entries([row for row in here if row in mine], here)
    networks_here = dict.fromkeys(row.teacher for row in mine)
    for spec in builder.teachers:
        if spec.network not in networks_here:
            raise unknown("teacher", spec.network, networks_here, "in this table")
    return Protocol(info.name, paper, tuple(entries), builder.suites(entries))


def _nothing(name: str, folder: Path | None) -> str:
    """What to say of a method without values that could be measured."""
    others = [] if folder else [row["metric"] for row in load_other() if row["method"].partition("(")[0] == name]
    if others:
        said = ", ".join(dict.fromkeys(others))
        return (
            f"what results/reported has of {name!r} is of scores that kdbench does not measure ({said}), so there is "
            f"nothing to reproduce: `kdbench show {name}` prints it"
        )
    return (
        f"no table of results/reported has a value of {name!r}, so there is nothing to reproduce: "
        "docs/papers.md says how to add one"
    )


def take_over(cells: Sequence[Cell], store: Store, out: Path, dry: bool = False) -> int:
    """Copy the records of cells that another suite of the results folder has finished.

    Args:
        dry: only count them.

    Returns:
        how many there are.
    """
    found, others = 0, stores(out)
    for cell in cells:
        there = [] if store.has(cell.id) else [other.read(cell.id) for other in others if other.has(cell.id)]
        done = [record for record in there if record["status"] == "done"]
        found += bool(done)
        if done and not dry:
            method: MethodConfig = {**done[0]["cell"]["method"], "label": cell.method.label}
            config: CellConfig = {**done[0]["cell"], "pair": str(cell.pair), "method": method}
            store.write({**done[0], "suite": cell.suite, "cell": config})
    return found


def _narrow(rows: Sequence[Reported], choice: Choice) -> list[Reported]:
    for what, wanted, known in (
        ("data set", choice.datasets, [row.dataset for row in rows]),
        ("pair", choice.pairs, [row.pair for row in rows]),
    ):
        for name in wanted:
            if not any(name == entry or (what == "pair" and name in entry) for entry in known):
                raise unknown(what, name, set(known), f"of {rows[0].paper}")
    chosen = [
        row
        for row in rows
        if (not choice.datasets or row.dataset in choice.datasets)
        and (not choice.pairs or any(name in row.pair for name in choice.pairs))
    ]
    if not chosen:
        raise KDBenchError(f"{rows[0].paper} has none of these pairs on these data sets: leave one of the two out")
    return chosen


class _Builder:
    """Makes the cells of a table's rows; recipes are read once."""

    def __init__(self, suite_name: str, folder: Path | None, choice: Choice) -> None:
        self.suite_name, self.folder, self.choice = suite_name, folder, choice
        self.teachers = [teacher_file(entry) for entry in choice.teachers]
        self._tables: dict[str, Mapping[str, Mapping[str, Any]]] = {}  # by task
        self._recipes: dict[tuple[str, str], PaperRecipe] = {}

    def entries(self, mine: Sequence[Reported], table: Sequence[Reported]) -> list[Entry]:
        """The entries of one data set and pair.

        Args:
            mine: the rows of the method that is reproduced.
            table: all rows that count, those among them.
        """
        runs = max((row.n or 0 for row in mine), default=0)
        seeds = tuple(self.choice.seeds) or tuple(range(runs if runs > 1 else SEEDS))
        place = (mine[0].dataset, mine[0].pair)
        own = {row: self.cells(row, row.method, seeds) for row in mine}
        idle = not any(cells for cells, _ in own.values())  # then nothing is trained for this pair
        there = {row.name for row in table}
        possible = [name for name in BASELINES if not applies.reason(registry.get(name), mine[0].task)]
        lacking = [] if idle else [name for name in possible if name not in there]
        found = [Entry(*place, name, None, *self.cells(mine[0], name, seeds)) for name in lacking]
        for row in table:
            if row.method == TEACHER:
                found.append(Entry(*place, row.method, row))
            elif row in own:
                found.append(Entry(*place, row.method, row, *own[row]))
            elif idle:
                found.append(Entry(*place, row.method, row, (), f"{mine[0].name} itself is not run here"))
            else:
                found.append(Entry(*place, row.method, row, *self.cells(row, row.method, seeds)))
        return found

    def cells(self, row: Reported, label: str, seeds: Sequence[int]) -> tuple[tuple[Cell, ...], str]:
        """A method's cells at the place and under the recipe of a row, and what stands against running them, or against
        comparing them.
        """
        tables = self._tables_of(row.task)
        if row.recipe not in tables:
            return (), "its recipe is not known" if row.recipe == UNKNOWN else f"recipe {row.recipe!r} is not defined"
        recipe = self._recipe(row.recipe, row.task)
        grid = parse.narrow(recipe.grid, epochs=self.choice.epochs, precision=self.choice.precision)
        datasets = tuple(dataset for dataset in grid.datasets if dataset.name == row.dataset)[:1]
        if not datasets:
            if parts := [dataset.name for dataset in grid.datasets if dataset.name.startswith(f"{row.dataset}:")]:
                return (), f"an average of several data sets ({parts[0]}, ...), not the score of one"
            return (), f"recipe {row.recipe!r} is not for {row.dataset!r}"
        try:
            method = self._method(label, row.pair, recipe)
            pair = reduce(taken, self.teachers, pair_of(row, grid))
            applies.check(registry.get(method.name), row.task)
        except KDBenchError as error:
            return (), str(error)
        changes = {"name": self.suite_name, "datasets": datasets, "pairs": (pair,), "methods": (method,)}
        cells = tuple(dataclasses.replace(grid, **changes, seeds=tuple(seeds)).cells())  # type: ignore[arg-type]
        mine, theirs = grid.recipe.span, recipe.grid.recipe.span
        if mine != theirs:
            return cells, f"trained for {mine}, the paper's recipe has {theirs}"
        return cells, recipe.caveat

    def suites(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Recipe -> the suite that it is like, of the rows that have one."""
        rows = [entry.reported for entry in entries if entry.reported]
        defined = [row for row in rows if row.recipe in self._tables_of(row.task)]
        return {row.recipe: self._recipe(row.recipe, row.task).grid.name for row in defined}

    def _tables_of(self, task: str) -> Mapping[str, Mapping[str, Any]]:
        if task not in self._tables:
            self._tables[task] = load_recipes(self.folder, task)
        return self._tables[task]

    def _recipe(self, name: str, task: str) -> PaperRecipe:
        if (task, name) not in self._recipes:
            self._recipes[task, name] = resolve_recipe(name, self._tables_of(task))
        return self._recipes[task, name]

    def _method(self, label: str, pair: str, recipe: PaperRecipe) -> MethodSpec:
        """The method with the paper's hyperparameters for the pair, in tables `dkd(by pair)` where pairs differ."""
        name, settings = parse_label(label)
        for part in split(name):
            if part not in registry.names():
                raise KDBenchError(f"kdbench has no method {part!r}")
        tuned = recipe.tuned.get(label, {})
        if label in recipe.tuned_by_pair and pair not in tuned:
            raise KDBenchError(f"the paper tunes {label} for each pair, and its values for this one are not known")
        spec = parse.method_spec({"name": name, **settings, **tuned.get(pair, tuned.get(ANY, {}))})
        registry.create(spec.name, dict(spec.hyperparameters))
        by_pair = label in recipe.tuned_by_pair or set(tuned) - {ANY}
        inside = [*(f"{key}={value}" for key, value in settings.items()), "by pair"]
        return dataclasses.replace(spec, title=f"{name}({', '.join(inside)})" if by_pair else "")


@dataclass(frozen=True)
class Entry:
    """One value of a paper's table and the cells that measure it.

    Attributes:
        dataset, pair, method: where it stands; `method` is the paper's label.
        reported: None for a baseline that the table lacks.
        cells: one per seed; none if kdbench cannot run it, or for the teacher's own row.
        obstacle: why it is not run (without cells) or not comparable (with cells), or nothing.
    """

    dataset: str
    pair: str
    method: str
    reported: Reported | None = None
    cells: tuple[Cell, ...] = ()
    obstacle: str = ""

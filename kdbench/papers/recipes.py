"""What the names of recipes in the tables of `results/reported` mean: a suite and what differs, from `recipes.toml`."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.papers.reported import IMAGE, place_of
from kdbench.suites import parse
from kdbench.suites.grid import Suite
from kdbench.suites.recipe import Recipe

ANY = "*"  # the pair that stands for all in `tuned`
KEYS = ("about", "suite", "like", "recipe", "student_recipes", "tuned", "tuned_by_pair", "caveat")


@dataclass(frozen=True)
class PaperRecipe:
    """What a recipe's name means.

    Attributes:
        grid: a suite whose recipe, teachers and data sets count; its own pairs lend their pools and assistants.
        tuned: label -> pair, or `*` -> the paper's hyperparameters.
        tuned_by_pair: labels whose hyperparameters are unknown for a pair that `tuned` leaves out.
        caveat: why its values are not comparable although they can be run, or nothing.
    """

    grid: Suite
    tuned: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    tuned_by_pair: frozenset[str] = frozenset()
    caveat: str = ""


def load_recipes(folder: Path | None = None, task: str = IMAGE) -> dict[str, dict[str, Any]]:
    """The tables of a task's `recipes.toml`.

    Raises:
        KDBenchError: for a file that is no TOML, or a key that a recipe does not have.
    """
    entry = place_of(task, folder).joinpath("recipes.toml")
    try:
        tables = tomllib.loads(entry.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise KDBenchError(f"recipes.toml cannot be read: {error}") from error
    for name, table in tables.items():
        for key in table:
            if key not in KEYS:
                raise unknown("key", key, KEYS, f"in recipe {name!r} of recipes.toml")
        if ("suite" in table) == ("like" in table):
            raise KDBenchError(f"recipe {name!r} of recipes.toml needs either 'suite' or 'like': give one of them")
        if table.get("like", name) not in tables:
            raise unknown("recipe", table["like"], tables, f"which {name!r} of recipes.toml is like")
    return tables


def resolve_recipe(name: str, tables: Mapping[str, Mapping[str, Any]]) -> PaperRecipe:
    """A recipe of `recipes.toml` with all that it is like."""
    table = tables[name]
    base = resolve_recipe(table["like"], tables) if "like" in table else PaperRecipe(parse.load(table["suite"]))
    grid, where = base.grid, f"recipe {name!r} of recipes.toml"
    changes = table.get("recipe", {})
    students = {student: dict(changed) for student, changed in grid.student_recipes.items()}
    for student, changed in table.get("student_recipes", {}).items():
        students[student] = {**students.get(student, {}), **changed}
    for changed in (changes, *students.values()):
        _changed(grid.recipe, changed, where)
    grid = dataclasses.replace(grid, recipe=_changed(grid.recipe, changes, where), student_recipes=students)
    tuned = {label: dict(pairs) for label, pairs in base.tuned.items()}
    for label, pairs in table.get("tuned", {}).items():
        tuned[label] = {**tuned.get(label, {}), **pairs}
    by_pair = base.tuned_by_pair | set(table.get("tuned_by_pair", ()))
    return PaperRecipe(grid, tuned, by_pair, table.get("caveat", base.caveat))


def _changed(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    known = {entry.name for entry in dataclasses.fields(Recipe)}
    for key in changes:
        if key not in known:
            raise unknown("recipe key", key, known, f"in {where}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in changes.items()}
    recipe = recipe.changed(**values)
    recipe.check(where)
    return recipe

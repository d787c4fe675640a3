"""A suite from the table of it that a card holds: with every default filled in, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from kdbench.suites.fixed import fixed_of
from kdbench.suites.grid import Cell, DatasetSpec, MethodSpec, Pair, Suite, TeacherSpec
from kdbench.suites.recipe import Recipe
from kdbench.suites.sweep import DEFAULT

T = TypeVar("T")


def suite_of(table: Mapping[str, Any]) -> Suite:
    """The suite of a `kdbench.board.results.suite_table`; its methods need not be registered here."""
    parts = {
        "datasets": [_made(DatasetSpec, entry) for entry in table["datasets"]],
        "pairs": [_pair(entry) for entry in table["pairs"]],
        "methods": [_method(entry) for entry in table["methods"]],
        "recipe": _made(Recipe, table["recipe"]),
        "teacher_recipe": _made(Recipe, table["teacher_recipe"]),
        "numerics": fixed_of(table.get("numerics", {})),
    }
    return _made(Suite, {**table, **parts, "sweep": DEFAULT, "tuned": False})


def cells_of(table: Mapping[str, Any]) -> list[Cell]:
    """The cells of a `suite_table`, those of its tuned rows among them."""
    suite = suite_of(table)
    cells = suite.cells()
    return [*cells, *(cell for row in table.get("tuned", ()) for cell in _tuned(suite, row, cells))]


def _tuned(suite: Suite, row: Mapping[str, Any], cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of a tuned row, of those that its method has at its place."""
    place = row["dataset"], row["protocol"], row.get("teacher_protocol"), row["pair"]
    spec, mine = MethodSpec(row["name"], row["hyperparameters"], title=row["label"]), dict[int, Cell]()
    for cell in cells:
        config = cell.config
        there = config["dataset"], config["protocol"], config.get("teacher_protocol"), config["pair"]
        if there == place and cell.method.name == row["name"]:
            mine.setdefault(cell.seed, cell)
    for seed in suite.tuned_seeds(mine):
        recipe = dataclasses.replace(mine[seed].recipe, **row["recipe"])
        yield dataclasses.replace(mine[seed], method=spec, recipe=recipe, tuning={})


def _pair(entry: Mapping[str, Any]) -> Pair:
    teachers = {
        "teacher": _made(TeacherSpec, entry["teacher"]),
        "pool": [_made(TeacherSpec, teacher) for teacher in entry["pool"]],
    }
    return _made(Pair, {**entry, **teachers})


def _method(entry: Mapping[str, Any]) -> MethodSpec:
    return MethodSpec(entry["name"], entry["hyperparameters"], entry["label"], tuple(entry.get("seeds", ())))


def _made(cls: type[T], table: Mapping[str, Any]) -> T:
    """A dataclass of a JSON table, whose lists are tuples there."""
    known = {entry.name for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in table.items() if key in known})

"""A suite from the table of it that a card holds: with every default filled in, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from kdbench.suites.fixed import fixed_of
from kdbench.suites.grid import DatasetSpec, MethodSpec, Pair, Suite, TeacherSpec
from kdbench.suites.recipe import Recipe

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
    return _made(Suite, {**table, **parts})


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

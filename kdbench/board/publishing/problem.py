"""What is wrong with a published folder, said so that it can be found and mended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One violation of one rule.

    Attributes:
        file: seen from the folder that is checked.
        where: a row and column, or a record's key; empty if it is about the whole file.
        value: what stands there; None if that says nothing.
        rule: what is wrong with it, or what should stand there instead.
    """

    file: str
    rule: str
    where: str = ""
    value: Any = None

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        value = "" if self.value is None else f"{shown(self.value)}: "
        return "".join(c if c.isprintable() else " " for c in f"{place}: {value}{self.rule}")


def shown(value: Any) -> str:
    """A value in a line: nothing invisible, and not endless."""
    plain = value if isinstance(value, int | float) else repr(value)
    return text if len(text := str(plain)) <= 80 else f"{text[:77]}..."


def misfits(value: Any, wanted: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a JSON value lacks a key or has one of a wrong type: the key, and what is wrong with it.

    Args:
        wanted: a dict of the keys that must be there, a list of what every item must be, or types.
        path: of `value`.
    """
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            yield path, "it is no table"
            return
        for key, inner in wanted.items():
            where = f"{path}.{key}".lstrip(".")
            if key in value:
                yield from misfits(value[key], inner, where)
            else:
                yield where, "it is missing"
    elif isinstance(wanted, list):
        if not isinstance(value, list):
            yield path, "it is no list"
            return
        for number, item in enumerate(value):
            yield from misfits(item, wanted[0], f"{path}[{number}]")
    else:
        kinds = (int, float) if wanted is float else wanted
        if not isinstance(value, kinds) or (isinstance(value, bool) and wanted is not bool):
            yield path, f"{type(value).__name__} is no type that it can have"

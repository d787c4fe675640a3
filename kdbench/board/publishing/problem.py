"""What is wrong with a published folder, said so that it can be found and mended."""

from __future__ import annotations

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

"""Search spaces: what a sweep may try for each hyperparameter of a method.

A method declares its own beside its defaults:

    search_space = Space(weight=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0))

They decide no result, and are no part of the method's digest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kdbench.errors import KDBenchError

DIGITS = 4  # significant ones of what is drawn: a value that can be typed again


class Dimension(Protocol):
    """The values that one hyperparameter may have."""

    def of(self, own: Any) -> Dimension | None:
        """The same where the hyperparameter's own value, the paper's or the suite's, is known; None if there is nothing
        to search around such a value.
        """
        ...

    def at(self, share: float) -> Any:
        """The value at a share from 0 to 1 (excluded) of the dimension."""
        ...

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        ...

    @property
    def count(self) -> float:
        """How many values there are."""
        ...

    @property
    def table(self) -> dict[str, Any]:
        """As records have it; `read` makes it a dimension again."""
        ...


class Space(Mapping[str, Dimension]):
    """What may be tried, by hyperparameter; what is not named stays as it is. `Space()` has nothing to search."""

    def __init__(self, **dimensions: Dimension) -> None:
        self._dimensions = dimensions

    def __getitem__(self, name: str) -> Dimension:
        return self._dimensions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dimensions)

    def __len__(self) -> int:
        return len(self._dimensions)


@dataclass(frozen=True)
class LogUniform:
    """Numbers between two positive bounds, their logarithm evenly spread."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise KDBenchError(f"LogUniform({self.low}, {self.high}): give two positive numbers, the smaller one first")

    def of(self, own: Any) -> LogUniform:
        return self

    def at(self, share: float) -> float:
        return _rounded(self.low * (self.high / self.low) ** share)

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)

    @property
    def count(self) -> float:
        return math.inf

    @property
    def table(self) -> dict[str, Any]:
        return {"kind": "log_uniform", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Uniform:
    """Numbers between two bounds, evenly spread."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise KDBenchError(f"Uniform({self.low}, {self.high}): give two numbers, the smaller one first")

    def of(self, own: Any) -> Uniform:
        return self

    def at(self, share: float) -> float:
        return _rounded(self.low + (self.high - self.low) * share)

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    @property
    def count(self) -> float:
        return math.inf

    @property
    def table(self) -> dict[str, Any]:
        return {"kind": "uniform", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Integer:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not (type(self.low) is type(self.high) is int and self.low < self.high):
            raise KDBenchError(f"Integer({self.low}, {self.high}): give two whole numbers, the smaller one first")

    def of(self, own: Any) -> Integer:
        return self

    def at(self, share: float) -> int:
        return self.low + min(int(share * self.count), int(self.count) - 1)

    def holds(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    @property
    def count(self) -> float:
        return self.high - self.low + 1

    @property
    def table(self) -> dict[str, Any]:
        return {"kind": "integer", "low": self.low, "high": self.high}


@dataclass(frozen=True, init=False)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        if not values or any(value in values[:place] for place, value in enumerate(values)):
            raise KDBenchError(f"Choice{values}: give at least one value, and each once")
        object.__setattr__(self, "values", values)

    def of(self, own: Any) -> Choice:
        return self

    def at(self, share: float) -> Any:
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def holds(self, value: Any) -> bool:
        return value in self.values

    @property
    def count(self) -> float:
        return len(self.values)

    @property
    def table(self) -> dict[str, Any]:
        return {"kind": "choice", "values": list(self.values)}


@dataclass(frozen=True)
class Around:
    """Numbers up to `factor` times smaller and larger than the hyperparameter's own value, log-uniform.

    For weights: a suite may set another than the paper's, and the search goes around that one. A value of 0, which
    switches a term off, is left as it is.
    """

    factor: float = 10.0

    def __post_init__(self) -> None:
        if not 1 < self.factor < math.inf:
            raise KDBenchError(f"Around({self.factor}): give a factor above 1")

    def of(self, own: Any) -> LogUniform | None:
        positive = _is_number(own) and 0 < own < math.inf
        return LogUniform(_rounded(own / self.factor), _rounded(own * self.factor)) if positive else None

    def at(self, share: float) -> float:
        return _rounded(self.factor ** (2 * share - 1))

    def holds(self, value: Any) -> bool:
        return _is_number(value) and value >= 0

    @property
    def count(self) -> float:
        return math.inf

    @property
    def table(self) -> dict[str, Any]:
        return {"kind": "around", "factor": self.factor}


def read(table: Mapping[str, Any]) -> Dimension:
    """The dimension that a record holds.

    Raises:
        KDBenchError: if there is no such kind, or its bounds are none.
    """
    kinds: dict[str, Any] = {"log_uniform": LogUniform, "uniform": Uniform, "integer": Integer, "around": Around}
    try:
        values = {key: value for key, value in table.items() if key != "kind"}
        return Choice(*values["values"]) if table["kind"] == "choice" else kinds[table["kind"]](**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise KDBenchError(f"{table!r} is no dimension of a search space") from error


def said(dimension: Dimension) -> str:
    """A dimension in words: `0.1 to 10, log` or `1, 2, 4`."""
    table = dimension.table
    if table["kind"] == "choice":
        return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in table["values"])
    return f"{table['low']:g} to {table['high']:g}" + ", log" * (table["kind"] == "log_uniform")


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

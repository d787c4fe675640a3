"""In which numbers the places of a suite differ: images a class, a student's width, a rate of noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.board.grid import Place
from kdbench.board.runs import protocol_of
from kdbench.errors import KDBenchError
from kdbench.suites import networks

MOST = 2  # axes of a map
# what an option is worth where it is not named
NEUTRAL: Mapping[str, float] = {"width_factor": 1, "rate": 0, "factor": 1}
TITLES = {
    "protocol.subset.per_class": "images a class",
    "protocol.label_noise.rate": "share of wrong labels",
    "protocol.imbalance.factor": "imbalance factor",
    "teacher_protocol.subset.per_class": "the teacher's images a class",
    "student.width_factor": "the student's width",
    "teacher.width_factor": "the teacher's width",
}


@dataclass(frozen=True)
class Axis:
    """One number in which places differ.

    Attributes:
        key: where it stands: `protocol.subset.per_class`, `student.width_factor`.
        values: that it has, from small to large.
    """

    key: str
    values: tuple[float, ...]

    @property
    def title(self) -> str:
        """`images a class`."""
        return TITLES.get(self.key, self.key.rpartition(".")[2].replace("_", " "))

    @property
    def labels(self) -> list[str]:
        """The values as text."""
        return [f"{value:,.10g}".replace(",", " ") for value in self.values]


def settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in which a place may differ from another, by dotted names.

    Args:
        row: a record's `cell`, or a planned one (`kdbench.board.results.grid_rows`).
    """
    found: dict[str, Any] = {"dataset": row["dataset"]}
    for kind in ("protocol", "teacher_protocol"):
        for step, options in (row.get(kind) or {}).items():
            found |= {f"{kind}.{step}.{key}": value for key, value in options.items()}
    for role, name in (("teacher", row["pair"].rpartition(" -> ")[0]), ("student", row["student"])):
        base, options = networks.split(name) if " + " not in name else (name, {})
        found |= {role: base, **{f"{role}.{key}": value for key, value in options.items()}}
    return found


def places_of(rows: Iterable[Mapping[str, Any]]) -> dict[Place, dict[str, Any]]:
    """The settings of each place that rows or records' cells stand at."""
    return {(row["dataset"], protocol_of(row), row["pair"]): settings(row) for row in rows}


def axes_of(places: Mapping[Place, Mapping[str, Any]]) -> tuple[list[Axis], dict[Place, tuple[float, ...]]]:
    """The numbers in which places differ, and each place's values of them.

    Raises:
        KDBenchError: if they differ in something else, in nothing, or in more than two numbers.
    """
    keys = sorted({key for own in places.values() for key in own})
    axes, words = [], []
    for key in keys:
        values = [own.get(key, NEUTRAL.get(key.rpartition(".")[2])) for own in places.values()]
        if all(value == values[0] for value in values):
            continue
        if all(_is_number(value) for value in values):
            axes.append(Axis(key, tuple(sorted({float(value) for value in values if value is not None}))))
        elif any(map(_is_number, values)) or not _only_named_with(key, places):
            words.append(key)
    if words or not 0 < len(axes) <= MOST:
        raise KDBenchError(f"there is no map: {_why(words, axes, len(places))}")
    axes.sort(key=lambda axis: (not axis.key.startswith("protocol"), axis.key))  # the data across, networks down
    return axes, {place: tuple(_value(own, axis) for axis in axes) for place, own in places.items()}


def _value(own: Mapping[str, Any], axis: Axis) -> float:
    return float(own.get(axis.key, NEUTRAL.get(axis.key.rpartition(".")[2], 0)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _only_named_with(key: str, places: Mapping[Place, Mapping[str, Any]]) -> bool:
    """Whether a word (a kind of noise) is one and the same wherever its protocol is applied at all."""
    values = [own[key] for own in places.values() if key in own]
    step = key.rpartition(".")[0]
    without = [own for own in places.values() if key not in own]
    return len(set(map(str, values))) == 1 and not any(name.startswith(f"{step}.") for own in without for name in own)


def _why(words: Sequence[str], axes: Sequence[Axis], places: int) -> str:
    if words:
        return f"its places differ in {', '.join(words)}; a map needs places that differ in one number or two only"
    if not axes:
        what = "it has one place" if places == 1 else "it has no place"
        return f"{what}; a map needs places that differ in one number or two"
    return (
        f"its places differ in {len(axes)} numbers ({', '.join(axis.title for axis in axes)}), and a map has two axes"
    )

"""Every default against the paper or the code that gives it, or the reason why none does.

tests/data/defaults.csv has one row for each hyperparameter of each method: its value (JSON, or a fraction), and either
the `source` that gives it (a paper's section, a file of the authors' code, the field's scripts) or `why` there is none.
A row whose method is a label, as `ft(factor=attention)`, pins what a default of None becomes under these settings.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kdbench import registry
from kdbench.papers.reported import parse_label

TABLE = Path(__file__).parents[1] / "data" / "defaults.csv"


class Row(NamedTuple):
    method: str
    hyperparameter: str
    value: str
    source: str
    why: str

    @property
    def default(self) -> Any:
        return float(Fraction(self.value)) if "/" in self.value else json.loads(self.value)


def table() -> list[Row]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == Row._fields
    return [Row(*row) for row in rows]


def defaults() -> dict[tuple[str, str], Any]:
    """Those of kdbench's own methods; other tests register some of theirs."""
    own = [name for name in registry.names() if registry.get(name).__module__.startswith("kdbench.methods.")]
    return {(name, key): value for name in own for key, value in registry.hyperparameters(registry.get(name)).items()}


def faults(rows: Iterable[Row], known: dict[tuple[str, str], Any]) -> list[str]:
    """What is not pinned, pinned to another value or twice, or has no reason to be as it is, in words."""
    found, seen = [], set()
    for row in rows:
        where = f"{row.method}'s {row.hyperparameter}"
        name, settings = parse_label(row.method)
        if (name, row.hyperparameter) not in known:
            found.append(f"{where} does not exist")
            continue
        if settings:
            value = getattr(registry.create(name, settings), row.hyperparameter)
        else:
            value = known[name, row.hyperparameter]
        if (type(value), value) != (type(row.default), row.default):
            found.append(f"{where} is {value!r}, pinned is {row.default!r}")
        if bool(row.source) == bool(row.why):
            found.append(f"{where} needs a source or the reason why there is none, and not both")
        if (row.method, row.hyperparameter) in seen:
            found.append(f"{where} is pinned twice")
        seen.add((row.method, row.hyperparameter))
    return found + [f"{name}'s {key} is not pinned" for name, key in known if (name, key) not in seen]


def test_every_default_is_the_one_of_its_source_or_has_a_reason() -> None:
    assert not faults(table(), defaults()), "write what tests/data/defaults.csv is to say of it"


def test_the_table_is_in_alphabetical_order() -> None:
    keys = [(parse_label(row.method)[0], row.method, row.hyperparameter) for row in table()]
    assert keys == sorted(keys)


@pytest.mark.parametrize("name", ["official-code", "field-code"])
def test_methods_that_were_held_against_code_have_a_source(name: str) -> None:
    held = {method for method, _ in defaults() if registry.get(method).info.fidelity == name}
    assert held
    assert held <= {parse_label(row.method)[0] for row in table() if row.source}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (Row("kd", "temperature", "2.0", "somewhere", ""), "kd's temperature is 4.0, pinned is 2.0"),
        (Row("kd", "temperature", "4", "somewhere", ""), "kd's temperature is 4.0, pinned is 4"),
        (Row("kd", "temperature", "4.0", "", ""), "kd's temperature needs a source"),
        (Row("kd", "temperature", "4.0", "somewhere", "none"), "kd's temperature needs a source"),
        (Row("kd", "tempature", "4.0", "somewhere", ""), "kd's tempature does not exist"),
        (Row("ft(factor=attention)", "weight", "500.0", "somewhere", ""), "weight is 200.0, pinned is 500.0"),
    ],
)
def test_a_wrong_row_is_a_fault(row: Row, fault: str) -> None:
    known = {("kd", "temperature"): 4.0, ("ft", "weight"): None}
    assert fault in faults([row], known)[0]


def test_a_new_hyperparameter_and_a_second_row_are_faults() -> None:
    row = Row("kd", "temperature", "4.0", "somewhere", "")
    found = faults([row, row], {("kd", "temperature"): 4.0, ("kd", "new"): 1})
    assert found == ["kd's temperature is pinned twice", "kd's new is not pinned"]

"""The types of a record say what is in its file: every key that a run writes, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import pytest

from kdbench.board.publishing.audit import done_shape
from kdbench.records import Record, Store
from kdbench.records.shape import SHAPE
from kdbench.records.types import CellConfig, Cost, MethodConfig, NumericsConfig, Provenance, TeacherConfig
from kdbench.tasks.metrics import of


def parts(record: Record) -> dict[type, Mapping[str, Any]]:
    """The parts of a finished record, by their type."""
    cell, provenance = record["cell"], record["provenance"]
    return {
        Record: record,
        CellConfig: cell,
        MethodConfig: cell["method"],
        TeacherConfig: cell["teachers"][0],
        Cost: record["cost"],
        Provenance: provenance,
        NumericsConfig: provenance["numerics"],
    }


@pytest.fixture
def finished(tiny_runs: Path) -> list[Record]:
    return [record for record in Store(tiny_runs / "tiny").all() if record["status"] == "done"]


def test_a_finished_record_has_the_keys_of_its_types(finished: list[Record]) -> None:
    assert finished
    for record in finished:
        for kind, part in parts(record).items():
            hints = get_type_hints(kind, include_extras=True)
            needed = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
            assert needed <= part.keys() <= hints.keys(), kind.__name__


def test_what_is_asked_of_a_published_record_is_in_the_types() -> None:
    assert {*SHAPE, *done_shape(of("image"))} <= Record.__annotations__.keys()
    assert SHAPE["cell"].keys() <= CellConfig.__annotations__.keys()
    assert SHAPE["cell"]["method"].keys() <= MethodConfig.__annotations__.keys()
    assert SHAPE["provenance"].keys() == Provenance.__annotations__.keys()

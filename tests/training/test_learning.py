"""Does every method teach? The suite `digits_all`: each student against chance and against the plain student.

The default run trains one seed for half the epochs; `tox -e learning` the whole suite.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from rich.console import Console

from kdbench import registry
from kdbench.commands.progress import Display
from kdbench.executors.local import LocalExecutor
from kdbench.records import Record, Store
from kdbench.suites import parse

CHANCE = 10.0
MARGIN = 5.0  # points below the plain student; the methods that train in stages have fewer epochs for each


def train(folder: Path, seeds: list[int], epochs: int | None = None) -> dict[str, list[Record]]:
    """The records of the suite by method."""
    grid = parse.narrow(parse.load("digits_all"), seeds=seeds, epochs=epochs)
    cells = grid.cells()
    LocalExecutor(folder, Display(Console(quiet=True), len(cells), 0), device="cpu").run(cells)
    found: dict[str, list[Record]] = {}
    for cell in cells:
        found.setdefault(cell.method.name, []).append(Store(folder / grid.name).read(cell.id))
    return found


def top1(records: list[Record]) -> float:
    assert {record["status"] for record in records} == {"done"}, records[0]["reason"]
    return statistics.fmean(record["result"]["top1"] for record in records)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    return train(tmp_path_factory.mktemp("short"), seeds=[0], epochs=6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    return train(tmp_path_factory.mktemp("whole"), seeds=[0, 1, 2])


@pytest.mark.slow
@pytest.mark.xdist_group("learning")
@pytest.mark.parametrize("method", registry.names("image"))
def test_a_method_teaches_its_student_far_more_than_chance(short: dict[str, list[Record]], method: str) -> None:
    assert top1(short[method]) > 7 * CHANCE


@pytest.mark.learning
@pytest.mark.parametrize("method", registry.names("image"))
def test_a_method_does_not_harm_its_student(whole: dict[str, list[Record]], method: str) -> None:
    assert top1(whole[method]) > top1(whole["student"]) - MARGIN

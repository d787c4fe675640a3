"""Verdicts on compilation: measured by `kdbench tune`, kept, and the only thing that automatic runs go by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

from kdbench.commands.progress import Display
from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Cell
from kdbench.training import tune, tuned
from kdbench.training.precision import numerics_of


@pytest.fixture
def cells(tiny_suite: Path) -> list[Cell]:
    return parse.load(str(tiny_suite)).cells()


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(file=open(tmp_path / "printed", "w"), width=200)


@pytest.fixture
def aot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without generating code, which takes half a minute a network."""
    defaults = tuple("aot_eager" if value == "inductor" else value for value in Numerics.__init__.__defaults__ or ())
    monkeypatch.setattr(Numerics.__init__, "__defaults__", defaults)


def give(folder: Path, cell: Cell, *, student: bool, teacher: bool) -> None:
    """Verdicts as they would be measured."""
    settings = tuned.settings_of(cell, numerics_of(cell, "cpu"))
    found = {s: {"compiled": teacher if s.frozen else student} for s in settings}
    tuned.write(folder, found)


@pytest.mark.usefixtures("aot")
def test_every_network_of_a_suite_is_measured_once_and_kept(
    cells: list[Cell], console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuned.Setting] = []

    def compare(*args: object) -> dict[str, float | bool]:
        calls.append(args[1])  # type: ignore[arg-type]
        return measure(*args)

    measure = tune.compare
    monkeypatch.setattr(tune, "compare", compare)
    for _ in range(2):  # the second time nothing is left to measure
        tune.tune(console, cells, tmp_path, "cpu", None)
    assert sorted((s.network, s.frozen) for s in calls) == [("cifar_resnet8", False), ("cifar_resnet8", True)]
    for found in tuned.read(tmp_path).values():
        assert found["plain_ms"] > 0
        assert found["compiled_ms"] > 0
        assert found["compiled"] == (found["plain_ms"] > 1.05 * found["compiled_ms"])


def test_a_run_goes_by_the_verdicts_of_its_folder(cells: list[Cell], tmp_path: Path) -> None:
    cell = next(cell for cell in cells if cell.method.name == "kd")
    give(tmp_path, cell, student=True, teacher=False)
    numerics = numerics_of(cell, "cpu", runs=tmp_path)
    student, teacher = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    student.name = teacher.name = "cifar_resnet8"  # type: ignore[assignment]
    assert numerics.compiled(student, 4) is not student
    assert numerics.compiled(teacher, 4) is teacher
    assert numerics.describe()["compile"] is True
    assert "cifar_resnet8 on, cifar_resnet8 frozen off" in numerics.describe()["compile_rule"]


@pytest.mark.parametrize("choice", ["on", "off"])
def test_what_the_user_says_stands_over_the_verdicts(cells: list[Cell], tmp_path: Path, choice: str) -> None:
    give(tmp_path, cells[0], student=choice == "off", teacher=choice == "off")
    numerics = numerics_of(cells[0], "cpu", choice, tmp_path)
    assert (numerics.compile, numerics.verdicts) == (choice == "on", ())


def test_a_verdict_holds_for_its_batch_size_processor_and_torch_only(cells: list[Cell], tmp_path: Path) -> None:
    cell = cells[0]
    plain = numerics_of(cell, "cpu")
    (setting, *_) = tuned.settings_of(cell, plain)
    for change in ({"batch_size": 7}, {"processor": "another"}, {"torch": "0.1"}, {"precision": "fp64"}):
        tuned.write(tmp_path, {dataclasses.replace(setting, **change): {"compiled": True}})
        assert numerics_of(cell, "cpu", runs=tmp_path) == plain


@pytest.mark.usefixtures("aot")
def test_the_record_of_a_cell_says_what_was_compiled(cells: list[Cell], tmp_path: Path, console: Console) -> None:
    cell = next(cell for cell in cells if cell.method.name == "kd")
    give(tmp_path, cell, student=True, teacher=False)
    with Display(console, 1, 0) as display:
        LocalExecutor(tmp_path, display, device="cpu").run([cell])
    record = Store(tmp_path / cell.suite).read(cell.id)
    assert record["status"] == "done", record["reason"]
    assert record["provenance"]["numerics"]["compile"] is True
    assert "frozen off" in record["provenance"]["numerics"]["compile_rule"]


@pytest.mark.parametrize("content", ["{", "[1]", json.dumps([{"network": "cifar_resnet8"}])])
def test_a_damaged_file_of_verdicts_is_named(cells: list[Cell], tmp_path: Path, content: str) -> None:
    (tmp_path / tuned.FILE).write_text(content)
    with pytest.raises(KDBenchError, match=r"compile\.json' is damaged: delete it"):
        numerics_of(cells[0], "cpu", runs=tmp_path)

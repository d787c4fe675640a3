"""What a plan says that a run will cost: a cohort's batches and teachers count once."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.commands import cost
from kdbench.commands.cost import EpochCost, likely
from kdbench.suites import parse
from kdbench.suites.grid import Cell, Suite

PAIRS = [{"teacher": "cifar_resnet14", "student": "cifar_resnet8"}]


def suite(**changes: Any) -> Suite:
    recipe = {"epochs": 2, "image_size": 8, "precision": "fp32"}
    entries = {"datasets": [{"name": "digits"}], "pairs": PAIRS, "methods": ["student", "kd", "dkd"], "seeds": [0, 1]}
    return parse.parse({**entries, "recipe": recipe, **changes}, "plan")


def finished(cell: Cell, own: float, alone: float) -> dict[str, Any]:
    seconds = {"own_seconds_per_epoch": own, "seconds_per_epoch": alone}
    return {"status": "done", "cell": cell.config, "cost": seconds}


def estimate(cells: list[Cell], records: list[Any]) -> float:
    return likely(cells, records, None, "cpu", "off", 1)


def test_what_a_cohort_shares_counts_once_for_all_its_cells() -> None:
    cells = suite().cells()
    records = [finished(cells[0], 1.0, 1.0), finished(cells[1], 3.0, 13.0)]  # in the mean 2 own and 5 shared
    assert estimate(cells, records) == pytest.approx(2 * (6 * 2.0 + 2 * 5.0))  # epochs, six cells, two cohorts
    assert estimate(cells[:1], records) == pytest.approx(2 * 7.0)


def test_what_nobody_ran_is_measured_once_for_all_seeds_and_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cost, "measure", lambda cell, *_: asked.append(cell.role) or EpochCost(2.0, 5.0))
    cells = suite().cells()
    trainings = list({c.training_of(t).id: c.training_of(t) for c in cells for t in c.teachers}.values())
    assert estimate(cells, []) == pytest.approx(2 * (6 * 2.0 + 2 * 5.0))
    assert asked == ["student"]
    estimate([*cells, *trainings], [])
    assert asked == ["student", "student", "teacher"]


def test_a_teachers_training_has_no_teacher_of_its_own() -> None:
    cell = suite().cells()[1]
    training = cell.training_of(cell.teachers[0])
    own, student = (cost.measure(one, cost.numerics(one, "cpu", "off", 1), None, steps=2) for one in (training, cell))
    assert min(own.own, student.own, student.shared) > 0
    assert own.shared == 0

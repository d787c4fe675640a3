"""Published results: they are what their records give."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.board.publishing.validate import validate
from kdbench.records import Store

RESULTS = Path(__file__).parents[2] / "results"
SUITES = sorted(path.parent for path in RESULTS.rglob("leaderboard.csv"))


def test_there_are_published_suites() -> None:
    boards = {"fashion", "fashion_few", "fashion_imbalance", "fashion_map", "fashion_noise"}
    assert boards <= {folder.name for folder in SUITES}


@pytest.mark.parametrize("folder", SUITES, ids=lambda folder: folder.name)
def test_what_is_published_is_valid(folder: Path) -> None:
    assert [str(problem) for problem in validate(folder)[0].problems] == []


@pytest.mark.parametrize("folder", SUITES, ids=lambda folder: folder.name)
def test_every_published_teacher_has_its_record(folder: Path) -> None:
    trained = {path.stem for path in (folder.parent / "teachers" / "records").glob("*.json")}
    done = [record for record in Store(folder).all() if record["status"] == "done"]
    assert {teacher["weights"] for record in done for teacher in record["teachers"]} <= trained

"""Published results: they are what their records give."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.board.runs import runs_table
from kdbench.board.tables import leaderboard_table, write_csv
from kdbench.board.validate import validate
from kdbench.board.wide import wide_table
from kdbench.records import Store

RESULTS = Path(__file__).parents[1] / "results"
SUITES = sorted(path.parent for path in RESULTS.rglob("leaderboard.csv"))
PUBLISHED = [folder for folder in SUITES if (folder / "card.json").exists()]
PLAIN = [folder for folder in SUITES if folder not in PUBLISHED]  # tables alone, made by `kdbench leaderboard`


def test_what_is_published_is_valid() -> None:
    assert [str(problem) for folder in PUBLISHED for problem in validate(folder)[0].problems] == []


@pytest.mark.parametrize("folder", PLAIN, ids=lambda folder: folder.name)
def test_a_published_table_is_made_from_its_records(folder: Path, tmp_path: Path) -> None:
    records = Store(folder).all()
    tables = {"runs": runs_table(records), "leaderboard": wide_table(records)}
    tables["leaderboard_long"] = leaderboard_table(records)
    for name, table in tables.items():
        write_csv(table, tmp_path / f"{name}.csv")
        assert (tmp_path / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()


@pytest.mark.parametrize("folder", SUITES, ids=lambda folder: folder.name)
def test_every_published_teacher_has_its_record(folder: Path) -> None:
    trained = {path.stem for path in (folder.parent / "teachers" / "records").glob("*.json")}
    used = {teacher["weights"] for record in Store(folder).all() for teacher in record["teachers"]}
    assert used <= trained

"""`kdbench validate FOLDER --rerun N`: a result that a run does not give again is found, and no machine is blamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdbench.board.publishing.card import read_card
from kdbench.board.publishing.publish import publish, remake
from kdbench.commands import rerun as rerunning
from kdbench.commands.cli import app
from kdbench.commands.rerun import drawn, rerun
from kdbench.errors import KDBenchError
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Cell
from kdbench.suites.tables import suite_of
from kdbench.testing.trial import _Silent


@pytest.fixture(scope="module")
def published(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("published")
    return publish(parse.load(str(tiny_runs / "tiny.toml")), tiny_runs, results).folder


@pytest.fixture
def folder(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be changed, on a machine where training gives what was published at first."""

    class Remembering:
        def __init__(self, out: Path, *_: Any) -> None:
            self.out = out

        def run(self, cells: Sequence[Cell]) -> None:
            for cell in cells:
                Store(self.out / cell.suite).write(Store(published).read(cell.id))

    monkeypatch.setattr(rerunning, "LocalExecutor", Remembering)
    return Path(shutil.copytree(published.parent, tmp_path / "results")) / published.name


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change all records alike, and publish the folder anew, so that nothing else gives them away."""
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))
    remake(folder)


def better(record: dict[str, Any]) -> None:
    """99.7 %, said everywhere, as somebody would who knows the format."""
    record["result"].update(top1=99.7, best_top1=99.7, best_epoch=len(record["curve"]), reliability=None)
    for point in record["curve"]:
        point["top1"] = 99.7 if point["epoch"] == len(record["curve"]) else 0.0


def elsewhere(record: dict[str, Any]) -> None:
    better(record)
    record["provenance"]["hardware"]["processor"] = "a processor of another kind"


def test_cells_of_a_card_are_those_of_its_suite(published: Path, tiny_runs: Path) -> None:
    mine = [cell.id for cell in suite_of(read_card(published / "card.json")["suite"]).cells()]
    assert mine == [cell.id for cell in parse.load(str(tiny_runs / "tiny.toml")).cells()]


def test_the_same_folder_draws_the_same_cells_and_a_changed_one_others(folder: Path) -> None:
    draws = [[record["id"] for record in drawn(folder, 2)] for _ in range(3)]
    assert draws[0] == draws[1] == draws[2]
    assert len(set(draws[0])) == 2
    card = folder / "card.json"
    others = set()
    for number in range(8):
        card.write_text(json.dumps({**json.loads(card.read_text()), "note": number}))
        others.add(tuple(record["id"] for record in drawn(folder, 2)))
    assert len(others) > 1
    assert len(drawn(folder, 99)) == 6


def test_a_cell_comes_out_again_to_the_bit(published: Path) -> None:
    result = CliRunner().invoke(app, ["validate", str(published), "--rerun", "1", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "came out again to the bit" in result.output
    assert "nothing wrong" in result.output


def test_a_forgery_that_fits_in_itself_is_found(folder: Path) -> None:
    forge(folder, better)
    found = rerun(folder, 2, _Silent())
    assert len(found.problems) == 2
    assert "result.top1: 99.7: trained again under the same numerics it is" in str(found.problems[0])


def test_where_numerics_differ_that_is_said_and_blames_nobody(folder: Path) -> None:
    forge(folder, elsewhere)
    found = rerun(folder, 1, _Silent())
    assert found.problems == []
    (note,) = found.notes
    assert "this machine's numerics differ (processor: " in note
    assert "a processor of another kind there" in note


def test_a_cell_of_a_method_that_is_another_one_here_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerunning, "cells_of", lambda table: [])
    found = rerun(folder, 1, _Silent())
    assert (found.problems, len(found.notes)) == ([], 1)
    assert "cannot be trained again" in found.notes[0]


def test_a_folder_without_a_card_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match=r"card\.json': it does not exist"):
        drawn(tmp_path, 1)

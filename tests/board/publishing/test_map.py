"""A suite whose places differ in a number or two is published with its map as a table, which is held to the records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from kdbench.board.maps.gains import LEAD
from kdbench.board.publishing.publish import publish
from kdbench.board.publishing.validate import check_folder
from kdbench.commands.cli import app
from kdbench.suites import parse

SUITE = """
name = "sizes"
seeds = [0]
methods = ["student", "kd"]

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 4 } }

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 8 } }

[recipe]
updates = 4
batch_size = 32

[[pairs]]
teacher = "cifar_resnet8"
student = "cifar_resnet8(width_factor=0.25)"
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sizes")
    suite = root / "sizes.toml"
    suite.write_text(SUITE)
    done = CliRunner().invoke(app, ["run", str(suite), "--out", str(root / "runs"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return publish(parse.load(str(suite)), root / "runs", root / "results").folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published.parent, tmp_path / "results")) / published.name


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in check_folder(folder).problems]


def test_the_map_is_published_as_a_table(folder: Path) -> None:
    table = pd.read_csv(folder / "map.csv")
    assert list(table.columns) == ["method", "images a class", "student", "n", "difference", "low", "high"]
    assert list(zip(table["method"], table["images a class"], strict=True)) == [
        ("kd", 4),
        ("kd", 8),
        (LEAD, 4),
        (LEAD, 8),
    ]
    runs = pd.read_csv(folder / "runs.csv").set_index(["protocol", "method"])["top1"]
    for size, gain in zip((4, 8), table["difference"], strict=False):
        own = runs[f"subset(per_class={size})"]
        assert gain == pytest.approx(own["kd"] - own["student"], abs=1e-3)
    assert problems(folder) == []


def test_the_readme_shows_the_map_in_place_of_a_verdict_on_each_place(folder: Path) -> None:
    readme = (folder / "README.md").read_text(encoding="utf-8")
    short, _, shown = readme.partition("## In short")[2].partition("## The map")
    assert "Too few places are finished to say what decides." in short
    assert "subset(per_class=" not in short  # over all places only
    table = pd.read_csv(folder / "map.csv")
    small, large = table[table["method"] == "kd"]["difference"]
    assert f"| kd | 4 | 8 |\n|---|---:|---:|\n|  | {small:+.2f} | {large:+.2f} |" in shown


def test_a_map_that_the_records_do_not_give_is_found(folder: Path) -> None:
    text = (folder / "map.csv").read_text()
    number = str(pd.read_csv(folder / "map.csv", dtype=str).at[0, "difference"])
    (folder / "map.csv").write_text(text.replace(f",{number},", ",9.5,", 1))
    found = problems(folder)
    assert any(f"map.csv, row 2, column difference: '9.5': the records give '{number}'" in one for one in found), found
    (folder / "map.csv").write_text(text.replace("difference", "gain"))
    assert any("there is no column 'difference'" in one for one in problems(folder))


def test_a_map_that_is_gone_is_found(folder: Path) -> None:
    (folder / "map.csv").unlink()
    assert any(one.startswith("map.csv: it cannot be read") for one in problems(folder))


def test_a_map_of_a_suite_that_has_none_is_found(tiny_runs: Path, tmp_path: Path, folder: Path) -> None:
    tiny = publish(parse.load(str(tiny_runs / "tiny.toml")), tiny_runs, tmp_path / "others").folder
    assert not (tiny / "map.csv").exists()
    shutil.copy(folder / "map.csv", tiny)
    assert any("map.csv: the records give no such table" in one for one in problems(tiny))


def test_commands_leave_a_published_folder_alone_and_say_what_publish_renews(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = CliRunner().invoke(app, ["map", str(folder)])
    assert done.exit_code == 0
    assert "`kdbench publish` renews" in done.output
    done = CliRunner().invoke(app, ["agreement", str(folder)])
    assert done.exit_code == 0, done.output
    assert "renews" not in done.output
    assert "agreement.csv is not written there" in " ".join(done.output.split())
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

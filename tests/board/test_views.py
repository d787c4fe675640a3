"""What a folder shows: states of runs that do not count, one filter that changes no number, and a card's view."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from kdbench.board.compare import compare
from kdbench.board.page.data import Results
from kdbench.board.publishing.publish import publish
from kdbench.board.publishing.validate import validate
from kdbench.board.results import Shown, Tables
from kdbench.board.seen import class_of, teachers_of
from kdbench.board.select import choose
from kdbench.commands.cli import app
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import ENGINE, Suite, identity
from tests.support.page_records import PAIRS, grid, page_record, synthetic

METHODS = ["student", "kd", "dkd", "camkd", "at", "dist"]


@pytest.fixture
def out(tiny_runs: Path, tmp_path: Path) -> Path:
    """Runs that may be changed."""
    return Path(shutil.copytree(tiny_runs, tmp_path / "runs"))


def suite_of(out: Path) -> Suite:
    return parse.load(str(out / "tiny.toml"))


def changed(out: Path, change: Callable[[dict[str, Any]], None], engine: int = ENGINE) -> None:
    """Change kd's run of seed 0, which becomes a record of that cell by an engine."""
    for path in (out / "tiny" / "records").iterdir():
        record = json.loads(path.read_text())
        if record["cell"]["method"]["name"] == "kd" and record["cell"]["seed"] == 0:
            change(record)
            record["id"] = identity(record["cell"], engine)
            path.unlink()
            path.with_name(f"{record['id']}.json").write_text(json.dumps(record))


def older(record: dict[str, Any]) -> None:
    record["cell"]["method"]["source"] = "0" * 16


def shorter(record: dict[str, Any]) -> None:
    record["cell"]["recipe"]["epochs"] += 7


def kd_row(out: Path) -> dict[str, Any]:
    long = Tables.of(suite_of(out).cells(), Store(out / "tiny").all()).long
    return dict(long[long["method"] == "kd"].iloc[0])


def command(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


# ---- runs that were made and do not count ----


def test_a_run_of_an_older_source_is_a_state_with_a_count_and_a_reason(out: Path) -> None:
    changed(out, older)
    row = kd_row(out)
    assert (row["n"], row["older_source"], row["missing"]) == (1, 1, 0)
    assert "1 older source: run with an older source of kd: run again" in row["remark"]
    told = command("status", out / "tiny.toml", "--out", out)
    assert "older source: kd on" in told.output
    assert "run with an older source of kd: run again" in told.output


def test_a_run_of_another_engine_is_a_state_and_never_in_a_row_with_the_present(out: Path) -> None:
    changed(out, lambda record: None, engine=ENGINE - 1)
    row = kd_row(out)
    assert (row["n"], row["other_engine"], row["missing"]) == (1, 1, 0)
    assert f"1 other engine: run by engine {ENGINE - 1}: run again" in row["remark"]


def test_records_of_another_recipe_are_told_of_in_one_line(out: Path) -> None:
    changed(out, shorter)
    chosen = choose(Store(out / "tiny").all(), suite_of(out).cells())
    (sentence,) = chosen.remarks
    assert sentence.startswith("1 record of another recipe is not shown: epochs = ")
    assert chosen.strays == []


# ---- a published folder ----


def test_a_published_folder_counts_what_is_missing_and_what_is_older(out: Path, tmp_path: Path) -> None:
    folder = publish(suite_of(out), out, tmp_path / "results").folder
    changed(out, older)
    (tmp_path / "results" / "tiny" / "records").rename(tmp_path / "kept")  # as if it had been run before the edit
    shutil.copytree(out / "tiny" / "records", folder / "records")
    folder = publish(suite_of(out), out, tmp_path / "results").folder
    card, text = json.loads((folder / "card.json").read_text()), (folder / "README.md").read_text()
    assert card["counts"]["older_source"] == 1
    assert "1 older source" in text
    assert card["engines"] == [ENGINE]
    assert [report.problems for report in validate(folder)] == [[]]


def test_a_published_folder_is_shown_by_its_card_and_not_written(out: Path, tmp_path: Path) -> None:
    folder = publish(suite_of(out), out, tmp_path / "results").folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = command("leaderboard", folder, "--methods", "student")
    assert told.exit_code == 0, told.output
    assert "is published, so that its tables are left as they are" in told.output
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    told = command("leaderboard", out / "tiny.toml", "--out", tmp_path / "results", "--epochs", "1")
    assert "leave --epochs out" in str(told.exception)


def test_a_folder_that_an_older_version_published_is_still_valid(out: Path, tmp_path: Path) -> None:
    folder = publish(suite_of(out), out, tmp_path / "results").folder
    card = json.loads((folder / "card.json").read_text()) | {"card": 1}
    del card["engines"]
    for name in ("runs.csv", "leaderboard.csv", "leaderboard_long.csv"):
        later = ["teachers", "older_source", "other_engine", "threads", "engine"]
        frame = pd.read_csv(folder / name, dtype=str, keep_default_na=False).drop(columns=later, errors="ignore")
        content = frame.to_csv(index=False, lineterminator="\n").encode()
        (folder / name).write_bytes(content)
        from hashlib import sha256

        card["tables"][name] = sha256(content).hexdigest()
    (folder / "README.md").write_text("as it was")
    (folder / "card.json").write_text(json.dumps(card))
    (report,) = validate(folder)
    assert report.problems == []
    assert any("an older kdbench published it" in note for note in report.notes)


# ---- how many teachers ----


def test_a_record_says_how_many_teachers_its_method_sees(tiny_runs: Path) -> None:
    seen = {record["cell"]["method"]["name"]: teachers_of(record["cell"]) for record in Store(tiny_runs / "tiny").all()}
    assert seen["student"] == 0
    assert seen["kd"] == 1
    assert [class_of(count) for count in (0, 1, 2, 5)] == ["none", "one", "several", "several"]


def test_ranks_are_among_methods_that_see_as_many_teachers() -> None:
    records = synthetic(METHODS, gaps=False)
    for record in records:
        if record["cell"]["method"]["name"] == "camkd":
            record["cell"]["teachers"] = [{"network": "T", "seed": seed} for seed in range(3)]
    wide = Tables(records).wide
    assert wide["teachers"].tolist() == [1, 1, 1, 1, 3, 0]
    assert wide["rank"].tolist() == [1, 2, 3, 4, 1, 1]


@pytest.mark.parametrize("shown", [Shown(frozenset({"dkd"})), Shown(sees="several")], ids=["methods", "teachers"])
def test_a_filter_takes_rows_away_and_changes_no_number(shown: Shown) -> None:
    records = synthetic(METHODS)
    whole, part = Tables(records), Tables(records, (), shown)
    assert set(part.wide["method"]) == {"student", "kd"} | ({"dkd"} if shown.labels else set())
    for name, frame in part.files.items():
        kept = whole.files[name]
        kept = kept[kept["method"].isin(set(frame["method"]))].reset_index(drop=True)
        pd.testing.assert_frame_equal(frame, kept)
    assert part.compared() == whole.compared()


# ---- what is not a whole grid ----


def test_a_method_with_fewer_seeds_than_another_lacks_nothing() -> None:
    records = [
        r for r in synthetic(METHODS, gaps=False) if r["cell"]["method"]["name"] != "at" or r["cell"]["seed"] < 2
    ]
    planned = [row for row in grid(METHODS) if row["label"] != "at" or row["seed"] < 2]
    wide = Tables(records, planned).wide.set_index("method")
    assert (wide.loc["at", "n"], wide.loc["at", "missing"], wide.loc["kd", "n"]) == (4, 0, 6)
    assert wide["rank"].notna().all()
    assert wide.loc["at", "vs_kd_n"] == 4


def test_a_grid_that_lacks_a_cell_opens_on_what_it_has_and_offers_the_common_subset() -> None:
    records = [r for r in synthetic(METHODS, gaps=False) if (r["cell"]["pair"], r["cell"]["seed"]) != (PAIRS[1], 2)]
    made = Results("s", "", records, grid(METHODS))
    assert made.fullest(made.boards).place.pair == PAIRS[0]
    (common,) = [board for board in made.boards if board.note]
    assert common.overall
    assert all(row["n"] == 3 for row in common.rows)
    assert f"left out: cifar10, {PAIRS[1]}" in common.note


def test_an_overall_comparison_counts_every_pair_alike() -> None:
    records = [page_record(m, pair, seed, top1=70.0 + seed) for m in ("a", "b") for pair in PAIRS for seed in range(3)]
    records = [r for r in records if (r["cell"]["pair"], r["cell"]["seed"]) != (PAIRS[1], 2)]
    found = compare(records, "a", "b")  # type: ignore[arg-type]
    assert found.rows[0][1].n == 3
    assert found.note == f"the first row is over 1 of 2 pairs: a and b do not share every seed on cifar10, {PAIRS[1]}"

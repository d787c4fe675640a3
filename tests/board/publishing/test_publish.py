"""Publishing: the same records give the same bytes, a reader learns who beats kd, and no text becomes markup."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from kdbench.board import curves
from kdbench.board.curves import curves_table, parquet
from kdbench.board.publishing.card import make_card, sha256
from kdbench.board.publishing.publish import publish, remake, suite_tables
from kdbench.board.publishing.readme import readme, text
from kdbench.board.publishing.validate import validate
from kdbench.board.results import expected, grid_rows, suite_table
from kdbench.board.tables import csv_bytes
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Suite, identity


@pytest.fixture
def runs(tiny_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_runs, tmp_path / "runs"))


@pytest.fixture
def tiny(tiny_runs: Path) -> Suite:
    return parse.load(str(tiny_runs / "tiny.toml"))


def records(folder: Path, method: str, seed: int | None = None) -> list[Path]:
    """The files of a method's records."""
    found = []
    for path in sorted((folder / "tiny" / "records").glob("*.json")):
        cell = json.loads(path.read_text())["cell"]
        if cell["method"]["name"] == method and seed in (None, cell["seed"]):
            found.append(path)
    assert found
    return found


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def fail(path: Path, reason: str, status: str = "failed") -> None:
    """Make a record one of a run that did not finish."""

    def change(record: dict[str, Any]) -> None:
        record.update(status=status, reason=reason)
        for key in ("result", "cost", "curve", "teachers"):
            del record[key]

    edit(path, change)


def forge_teacher(runs: Path, top1: float) -> Path:
    """The record of a teacher that nobody uses."""
    record = json.loads(next((runs / "teachers" / "records").glob("*.json")).read_text())
    record["cell"]["seed"] = 77
    record |= {"id": identity(record["cell"]), "result": {**record["result"], "top1": top1}}
    path = runs / "teachers" / "records" / f"{record['id']}.json"
    path.write_text(json.dumps(record))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_published_is_valid(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    done = publish(tiny, runs, tmp_path / "results")
    assert (done.records, done.teachers, done.aside) == (6, 2, 0)
    assert [report.problems for report in validate(tmp_path / "results")] == [[]]
    names = {path.name for path in done.folder.iterdir()}
    assert names >= {"leaderboard.csv", "leaderboard_long.csv", "runs.csv", "curves.parquet", "README.md", "card.json"}
    assert tree(done.folder / "records") == tree(runs / "tiny" / "records")


def test_the_same_records_give_the_same_bytes(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    for name in ("a", "b"):
        publish(tiny, runs, tmp_path / name)
    once = tree(tmp_path / "a")
    assert tree(tmp_path / "b") == once
    publish(tiny, runs, tmp_path / "a")
    publish(tiny, tmp_path / "a", tmp_path / "a")
    assert tree(tmp_path / "a") == once


def test_a_published_folder_can_be_made_anew_from_itself(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    folder = publish(tiny, runs, tmp_path / "results").folder
    before = tree(tmp_path / "results")
    (folder / "README.md").write_text("old words")
    (folder / "leaderboard.csv").unlink()
    result = CliRunner().invoke(app, ["publish", str(folder)])
    assert result.exit_code == 0
    assert tree(tmp_path / "results") == before


def test_a_folder_without_records_is_not_made_anew(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    folder = publish(tiny, runs, tmp_path / "results").folder
    shutil.rmtree(folder / "records")
    with pytest.raises(KDBenchError, match="has no record that counts"):
        remake(folder)


def test_what_was_published_before_stays(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    publish(tiny, runs, tmp_path / "whole")
    other = Path(shutil.copytree(runs, tmp_path / "other"))
    for path in records(runs, "aver_mkd"):
        path.unlink()
    for path in [*records(other, "kd"), *records(other, "student")]:
        path.unlink()
    publish(tiny, runs, tmp_path / "results")
    publish(tiny, other, tmp_path / "results")
    assert tree(tmp_path / "results") == tree(tmp_path / "whole")


def test_a_result_that_differs_from_the_published_one_is_refused(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    publish(tiny, runs, tmp_path / "results")
    before = tree(tmp_path / "results")
    edit(records(runs, "kd")[0], lambda record: record["result"].update(top1=99.0))
    with pytest.raises(KDBenchError, match=r"kd, seed \d, .*: top1 is .* in .* and 99.0 in"):
        publish(tiny, runs, tmp_path / "results")
    assert tree(tmp_path / "results") == before


def test_nothing_is_published_without_records(tiny: Suite, tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match=r"there is no record of suite 'tiny' in .*: run it first"):
        publish(tiny, tmp_path / "runs", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_records_of_another_recipe_are_not_published(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match="6 records there are of another recipe, of older methods, or"):
        publish(parse.narrow(tiny, epochs=3), runs, tmp_path / "results")


def test_a_teacher_without_record_is_named(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    shutil.rmtree(runs / "teachers")
    with pytest.raises(KDBenchError, match=r"teacher '[0-9a-f]{16}' has no record in .*teachers'"):
        publish(tiny, runs, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_teacher_of_another_suite_is_no_hindrance(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    other = forge_teacher(runs, 5.0)
    publish(tiny, runs, tmp_path / "results")
    kept = tmp_path / "results" / "teachers" / "records" / other.name
    assert not kept.exists()
    shutil.copy(other, kept)
    edit(other, lambda record: record["result"].update(top1=6.0))
    assert publish(tiny, runs, tmp_path / "results").teachers == 2


def test_a_pyarrow_that_cannot_be_imported_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(name: str) -> None:
        raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.26.4")

    monkeypatch.setattr(curves.importlib, "import_module", refuses)
    with pytest.raises(KDBenchError, match=r"pyarrow, which cannot be imported: pyarrow requires NumPy 2\.0"):
        curves.need_pyarrow()


def test_without_pyarrow_there_is_one_sentence(
    runs: Path, tiny: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KDBenchError, match=r"pyarrow, which is not installed: pip install 'kdbench\[report\]'"):
        publish(tiny, runs, tmp_path / "results")


def test_a_missing_run_is_shown(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    records(runs, "kd", seed=1)[0].unlink()
    folder = publish(tiny, runs, tmp_path / "results").folder
    table = pd.read_csv(folder / "runs.csv").set_index(["method", "seed"])
    assert table.loc[("kd", 1), "status"] == "missing"
    where = "digits, subset(per_class=8), cifar_resnet8 -> cifar_resnet8"
    assert f"- missing on {where}, seeds 1: kd" in (folder / "README.md").read_text()
    assert validate(folder)[0].problems == []


def test_a_method_without_any_run_is_listed_and_has_no_row(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    for path in records(runs, "aver_mkd"):
        path.unlink()
    page = (publish(tiny, runs, tmp_path / "results").folder / "README.md").read_text()
    assert "- no run at all (1): aver_mkd" in page
    assert "| aver_mkd |" not in page


def test_failures_are_published_with_their_reasons(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    fail(records(runs, "kd", 0)[0], "loss term 'kd' became nan in epoch 2")
    fail(records(runs, "aver_mkd", 1)[0], "it needs two teachers", "not_applicable")
    folder = publish(tiny, runs, tmp_path / "results").folder
    page = (folder / "README.md").read_text()
    assert "seeds 0: kd (loss term 'kd' became nan in epoch 2)" in page
    assert "seeds 1: aver_mkd (it needs two teachers)" in page
    assert validate(folder)[0].problems == []


HOSTILE = "=cmd|'/C calc'!A1 <script>alert(1)</script> `x` [a](b)\n| # **bold** &amp;"


def test_text_of_records_stays_text(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    fail(records(runs, "aver_mkd", 0)[0], HOSTILE)
    folder = publish(tiny, runs, tmp_path / "results").folder
    page = (folder / "README.md").read_text()
    assert "<script" not in page
    assert r"=cmd\|'/C calc'!A1 &lt;script>alert(1)&lt;/script> \`x\` \[a\](b) \| # \*\*bold\*\* &amp;amp;" in page
    for name in ("runs.csv", "leaderboard.csv", "leaderboard_long.csv"):
        cells = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
        assert not cells.map(lambda cell: cell.startswith(("=", "+", "@"))).any().any()
    assert validate(folder)[0].problems == []


@pytest.mark.parametrize("sign", ["\u202e", "\x00", "\x1b[31m", "\r\n"])
def test_signs_that_nobody_sees_do_not_get_into_the_page(sign: str) -> None:
    assert text(f"a{sign}b").isprintable()


def test_a_header_is_no_formula_either() -> None:
    assert csv_bytes(pd.DataFrame({"=1+1": [1.0]})) == b"'=1+1\n1\n"


def test_every_epoch_has_its_point(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    folder = publish(tiny, runs, tmp_path / "results").folder
    curves = pd.read_parquet(folder / "curves.parquet")
    found = {record["id"]: record for record in Store(folder).all()}
    assert len(curves) == sum(len(record["curve"]) for record in found.values()) == 12
    for row in curves.to_dict("records"):
        point = found[row["id"]]["curve"][row["epoch"] - 1]
        assert (row["loss"], row["top1"], json.loads(row["terms"])) == (point["loss"], point["top1"], point["terms"])


def test_what_a_method_watches_is_kept(tiny_runs: Path) -> None:
    record = Store(tiny_runs / "tiny").all()[0]
    record["curve"][1]["watched"] = {"temperature": 4.5}
    assert list(curves_table([record])["watched"]) == ["", '{"temperature": 4.5}']


def test_a_parquet_file_says_nothing_of_pandas(tiny_runs: Path) -> None:
    content = parquet(curves_table(Store(tiny_runs / "tiny").all()))
    assert content == parquet(curves_table(Store(tiny_runs / "tiny").all()[::-1]))
    assert b"pandas" not in content


def test_records_of_an_older_source_stay_out_of_the_tables(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    def older(record: dict[str, Any]) -> None:
        record["cell"]["method"]["source"] = "0" * 16
        record["id"] = identity(record["cell"])

    for path in records(runs, "kd"):
        edit(path, older)
        path.rename(path.with_name(f"{json.loads(path.read_text())['id']}.json"))
    done = publish(tiny, runs, tmp_path / "results")
    assert (done.records, done.aside) == (4, 2)
    for path in records(runs, "kd"):  # published when they were not old yet
        shutil.copy(path, done.folder / "records")
    assert publish(tiny, runs, tmp_path / "results").aside == 2
    card = json.loads((done.folder / "card.json").read_text())
    assert card["left_out"] == sorted(path.stem for path in records(runs, "kd"))
    assert "2 records in `records/` are not in the tables" in (done.folder / "README.md").read_text()
    assert validate(done.folder)[0].problems == []


def test_a_record_of_an_older_version_is_published_as_it_is(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    def first_version(record: dict[str, Any]) -> None:
        record["schema"] = 1
        for key in ("ece", "reliability"):
            del record["result"][key]
        for point in record["curve"]:
            del point["ece"]
        for key in ("joules_per_epoch", "latency_ms_batch1", "latency_ms_batch128"):
            del record["cost"][key]

    path = records(runs, "kd")[0]
    edit(path, first_version)
    done = publish(tiny, runs, tmp_path / "results")
    assert (done.folder / "records" / path.name).read_bytes() == path.read_bytes()
    assert done.records == 6
    assert validate(done.folder)[0].problems == []


def test_the_card_says_what_ran_where_and_when(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    folder = publish(tiny, runs, tmp_path / "results").folder
    card = json.loads((folder / "card.json").read_text())
    assert card["counts"] == {"done": 6, "failed": 0, "not_applicable": 0}
    assert card["suite"]["recipe"]["epochs"] == 2
    assert card["suite_sha256"] == sha256(json.dumps(card["suite"], sort_keys=True, ensure_ascii=False).encode())
    assert card["numerics"][0]["device"] == "cpu"
    assert "torch" in card["versions"][0]
    finished = sorted(record["provenance"]["finished_at"] for record in Store(folder).all())
    assert card["dates"] == {"first": finished[0], "last": finished[-1]}
    for name, digest in card["tables"].items():
        assert sha256((folder / name).read_bytes()) == digest
    for identity_, digest in card["records"].items():
        assert sha256((folder / "records" / f"{identity_}.json").read_bytes()) == digest


@pytest.mark.parametrize("name", ["digits", "fashion", "cifar100"])
def test_a_card_gives_the_grid_of_its_suite(name: str) -> None:
    grid = parse.load(name)
    rows = grid_rows(json.loads(json.dumps(suite_table(grid))))

    def order(row: dict[str, Any]) -> str:
        return json.dumps(row, sort_keys=True)

    assert sorted(rows, key=order) == sorted(expected(grid.cells()), key=order)


def test_plots_beside_the_page_are_shown(runs: Path, tiny: Suite, tmp_path: Path) -> None:
    plots = tmp_path / "results" / "tiny" / "plots"
    plots.mkdir(parents=True)
    for name in ("pareto-x.png", "curves-x.png", "pareto](x) <b>.png"):
        (plots / name).write_bytes(b"")
    shown = (publish(tiny, runs, tmp_path / "results").folder / "README.md").read_text()
    assert "![pareto-x](plots/pareto-x.png)" in shown
    assert shown.count("plots/") == 1


def page(base: Path, scores: dict[str, list[float]], seconds: dict[str, float] | None = None) -> str:
    """The README of a suite with one pair, from top-1 by method and seed."""
    grid = parse.load(str(base / "tiny.toml"))
    table = suite_table(grid)
    first = Store(base / "tiny").all()[0]
    table["seeds"] = list(range(max(map(len, scores.values()))))
    table["methods"] = [{"name": m, "label": m, "family": "f", "hyperparameters": {}} for m in scores]
    made = []
    for method, values in scores.items():
        for seed, top1 in enumerate(values):
            record = json.loads(json.dumps(first))
            record["id"] = f"{method} {seed}"
            record["cell"] |= {"seed": seed, "method": {**table["methods"][list(scores).index(method)], "source": ""}}
            record["result"] |= {"top1": top1, "best_top1": top1}
            times = [{"phase": 0, "share": 1.0, "student": [1.0], "own": [(seconds or {}).get(method, 2.0)]}]
            record["cost"] |= {"step_times": times, "extra_parameters": 1500}
            made.append(record)
    tables = suite_tables(table, made)
    card = make_card(table, made, [], {"tables": {}, "records": {}, "teachers": {}}, tables.states)
    return readme(card, tables, [])


STEADY = {
    "student": [70.0, 70.5, 71.0, 70.2, 70.3],
    "kd": [72.0, 72.5, 73.0, 72.2, 72.3],
    "good": [73.0, 73.6, 74.0, 73.3, 73.2],
    "dear": [74.0, 74.6, 75.0, 74.3, 74.2],
    "alike": [71.5, 72.9, 73.1, 71.8, 72.6],
    "bad": [71.0, 71.6, 72.0, 71.3, 71.2],
}


def test_the_page_says_who_beats_kd_how_surely_and_at_what_cost(tiny_runs: Path) -> None:
    said = page(tiny_runs, STEADY, {"student": 1.0, "good": 1.5, "dear": 4.0}).partition("## Leaderboard")[0]
    assert "after Holm's correction for 5 methods, all that ran here, shown or not): dear +2.02 [+1.92, +2.12]" in said
    assert "good +1.02 [" in said
    assert "**Cheapest of those above**: good +1.02, at 1.50x the plain student's training time, and with 1.5k" in said
    assert "**Not told apart from kd**: alike \u22120.02." in said
    assert "**Below kd**: bad \u22120.98." in said
    assert "kd itself against the plain student: +2.00" in said


def test_what_only_looks_better_is_not_called_better(tiny_runs: Path) -> None:
    scores = {"student": [70.0, 71.0, 70.5], "kd": [72.0, 72.5, 73.0], "x": [72.9, 73.0, 73.6]}
    many = {f"m{i}": [72.5 - i / 10, 72.0, 73.0 + i / 9] for i in range(5)}
    said = page(tiny_runs, {**scores, **many})
    assert "): none." in said
    assert "Of these, x +0.67 would differ if it were the only comparison" in said


def test_one_seed_tells_nothing_apart(tiny_runs: Path) -> None:
    assert "With so few seeds nothing can be told apart" in page(tiny_runs, {"student": [70.0], "kd": [72.0]})


def test_without_kd_the_page_says_so(tiny_runs: Path) -> None:
    assert "Nothing can be compared with kd here" in page(tiny_runs, {"student": [70.0, 71.0]})


def test_the_command_publishes_and_names_the_next_one(runs: Path, tmp_path: Path) -> None:
    words = ["publish", str(runs / "tiny.toml"), "--out", str(runs), "--to", str(tmp_path / "results")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert "published 6 records and 2 of teachers" in result.output
    assert "next: kdbench validate" in result.output

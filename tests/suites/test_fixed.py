"""A suite may fix threads and compilation: ids stay, and records of other numerics are missing and say why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdbench.board.publishing.card import read_card
from kdbench.board.publishing.publish import publish, remake
from kdbench.board.publishing.validate import validate
from kdbench.board.results import Tables, suite_table
from kdbench.commands.cli import app
from kdbench.commands.plan import state
from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.records import Store
from kdbench.suites import names, parse
from kdbench.suites.fixed import FREE, Fixed, fixed_of
from kdbench.suites.tables import suite_of
from kdbench.testing.trial import _Silent
from kdbench.training.precision import numerics_of

TWO = "\n[numerics]\nthreads = 2\n"


@pytest.fixture
def out(tiny_runs: Path, tmp_path: Path) -> Path:
    """The runs of the tiny suite, on one thread, with its file; they may be changed."""
    return Path(shutil.copytree(tiny_runs, tmp_path / "runs"))


def fixing(out: Path, table: str = TWO) -> str:
    path = out / "tiny.toml"
    path.write_text((out.parent / "runs" / "tiny.toml").read_text() + table)
    return str(path)


def invoked(*words: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == status, result.output
    return result


def test_what_a_suite_fixes_is_no_part_of_its_cells_ids(out: Path) -> None:
    free = parse.load(str(out / "tiny.toml"))
    fixed = parse.load(fixing(out, TWO + "compile = true\n"))
    assert fixed.numerics == Fixed(2, True)
    assert [cell.id for cell in fixed.cells()] == [cell.id for cell in free.cells()]
    assert fixed.cells()[0].training_of(fixed.pairs[0].teacher).fixed == Fixed(2, True)


# those whose results are published: any machine can go on with what another has begun
PINNED = {name for name in names() if name.startswith(("fashion", "translation_")) or name.endswith("_small")}


@pytest.mark.parametrize("name", names())
def test_suites_with_published_results_fix_their_numerics_and_the_others_have_no_word_of_it(name: str) -> None:
    suite = parse.load(name)
    assert suite.numerics == (Fixed(1, False) if name in PINNED else FREE)
    assert ("numerics" in suite_table(suite)) is (name in PINNED)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("thread = 2", "unknown suite key 'thread'"),
        ("threads = 0", "numerics.threads is 0: give at least 1"),
        ("threads = true", "numerics.threads is True, but it must be of type int"),
        ("threads = 'one'", "numerics.threads is 'one', but it must be of type int"),
        ("compile = 'on'", "numerics.compile is 'on', but it must be of type bool"),
        ("precision = 'fp32'", "unknown suite key 'precision'"),
    ],
)
def test_a_wrong_table_is_a_sentence(out: Path, table: str, sentence: str) -> None:
    with pytest.raises(KDBenchError) as caught:
        parse.load(fixing(out, f"\n[numerics]\n{table}\n"))
    assert sentence in str(caught.value)


def test_a_run_computes_as_the_suite_fixes_it(out: Path) -> None:
    cell = parse.load(fixing(out, TWO + "compile = true\n")).cells()[0]
    found = numerics_of(cell, "cpu").describe()
    assert (found["threads"], found["compile"]) == (2, True)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"threads": 1}, "the suite fixes threads = 2, so that records of --threads 1 would not count: leave --thr"),
        ({"compile": "on"}, "the suite fixes compile = false, so that records of --compile on would not count"),
    ],
)
def test_a_command_line_that_says_otherwise_is_refused(out: Path, choice: dict[str, Any], sentence: str) -> None:
    cell = parse.load(fixing(out, TWO + "compile = false\n")).cells()[0]
    with pytest.raises(KDBenchError) as caught:
        numerics_of(cell, "cpu", **choice)
    assert sentence in str(caught.value)


def test_a_record_of_other_numerics_is_missing_in_status_and_leaderboard_and_says_why(out: Path) -> None:
    suite = fixing(out)
    why = "the suite fixes threads 2, and it ran with threads 1"
    status = invoked("status", suite, "--out", str(out))
    assert "missing" in status.stdout
    assert f"missing: student on cifar_resnet8 -> cifar_resnet8, seed 0 and 5 more: {why}" in status.stdout
    cells = parse.load(suite).cells()
    assert {state(cell, Store(out / "tiny"), False, {}) for cell in cells} == {"missing"}
    tables = Tables.of(cells, Store(out / "tiny").all())
    assert set(tables.runs["status"]) == {"missing"}
    assert f"seed 0 does not count: {why}" in tables.long["remark"][0]


def test_it_runs_again_and_the_old_record_is_kept_aside(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = parse.load(fixing(out)).cells()[:2]
    store, told, trained = Store(out / "tiny"), [], []
    old = store.path(cells[0].id).read_bytes()
    monkeypatch.setattr(LocalExecutor, "_run_cohort", lambda self, cells, *_: trained.extend(cells))
    listener = _Silent()
    monkeypatch.setattr(listener, "notice", told.append)
    LocalExecutor(out, listener, device="cpu").run(cells)
    aside = out / "tiny" / "records" / "other_numerics"
    assert trained == cells
    assert (aside / f"{cells[0].id}.json").read_bytes() == old
    assert told == [
        f"2 records are of other numerics than the suite fixes: they are now in {str(aside)!r}, "
        "and their cells run again"
    ]
    assert len(store.paths()) == 4


def test_a_suite_that_fixes_what_was_used_keeps_its_records(out: Path) -> None:
    suite = fixing(out, "\n[numerics]\nthreads = 1\ncompile = false\n")
    assert "missing" not in invoked("status", suite, "--out", str(out)).stdout
    before = {path: path.stat().st_mtime_ns for path in Store(out / "tiny").paths()}
    invoked("run", suite, "--out", str(out))
    assert {path: path.stat().st_mtime_ns for path in Store(out / "tiny").paths()} == before


def test_nothing_of_other_numerics_is_published(out: Path, tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match="6 records there are of another recipe, of older methods, or of other num"):
        publish(parse.load(fixing(out)), out, tmp_path / "results")


def test_a_published_record_of_other_numerics_is_found(out: Path, tmp_path: Path) -> None:
    suite = parse.load(fixing(out, "\n[numerics]\nthreads = 1\n"))
    folder = publish(suite, out, tmp_path / "results").folder
    assert read_card(folder / "card.json")["suite"]["numerics"] == {"threads": 1}
    assert "Numerics that the suite fixes: threads 1" in (folder / "README.md").read_text()
    assert validate(folder)[0].problems == []
    assert {cell.fixed for cell in suite_of(read_card(folder / "card.json")["suite"]).cells()} == {Fixed(1)}
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        record["provenance"]["numerics"]["threads"] = 2
        path.write_text(json.dumps(record))
    remake(folder)
    found = [str(problem) for problem in validate(folder)[0].problems]
    assert len(found) == 6
    assert all(
        "provenance.numerics: the suite fixes threads 1, and it ran with threads 2" in problem for problem in found
    )


def test_a_card_whose_numerics_are_no_table_is_a_sentence(out: Path, tmp_path: Path) -> None:
    folder = publish(parse.load(str(out / "tiny.toml")), out, tmp_path / "results").folder
    card = json.loads((folder / "card.json").read_text())
    card["suite"]["numerics"] = 3
    (folder / "card.json").write_text(json.dumps(card))
    found = [str(problem) for problem in validate(folder)[0].problems]
    assert any("it is no card (suite.numerics: int is no type that it can have)" in problem for problem in found), found


@pytest.mark.parametrize(
    ("table", "fixed"),
    [({}, FREE), ({"threads": 2, "compile": True}, Fixed(2, True)), ({"threads": True, "compile": 1}, FREE)],
)
def test_a_cards_table_of_wrong_types_fixes_nothing(table: dict[str, Any], fixed: Fixed) -> None:
    assert fixed_of(table) == fixed
    assert fixed_of(fixed.table) == fixed


def test_an_accelerators_host_may_have_any_threads_and_what_computed_nothing_stands(out: Path) -> None:
    record: Any = Store(out / "tiny").all()[0]
    assert Fixed(2).refused(record)
    assert Fixed(compile=True).refused(record) == "the suite fixes compile true, and it ran with compile false"
    assert not Fixed(2).refused({**record, "status": "not_applicable"})
    record["provenance"]["numerics"]["device"] = "cuda"
    assert not Fixed(2).refused(record)


def test_a_record_must_have_the_precision_that_its_recipe_fixes(out: Path) -> None:
    record: Any = Store(out / "tiny").all()[0]
    record["provenance"]["numerics"]["precision"] = "fp32"
    record["cell"]["recipe"]["precision"] = "bf16"
    assert FREE.refused(record) == "the suite fixes precision bf16, and it ran with precision fp32"
    record["cell"]["recipe"]["precision"] = "auto"
    assert FREE.refused(record) == ""

"""Validation: a folder that anybody touched is found out, each fault with its file, place, value and rule."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from kdbench import suites
from kdbench.board.publishing import audit, schemas
from kdbench.board.publishing import validate as validation
from kdbench.board.publishing.problem import shown
from kdbench.board.publishing.publish import publish, trained
from kdbench.board.publishing.validate import validate
from kdbench.board.results import suite_table
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.records import Record, migrated, read_record
from kdbench.suites import grid, parse
from kdbench.suites.grid import ENGINE, identity
from kdbench.tasks.image.metrics import METRICS

DOCS = Path(__file__).parents[3] / "docs" / "results.md"


@pytest.fixture(scope="session")
def published(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published tiny suite; never change it."""
    results = tmp_path_factory.mktemp("published")
    return publish(parse.load(str(tiny_runs / "tiny.toml")), tiny_runs, results).folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(published.parent, tmp_path / "results")) / published.name


def problems(folder: Path) -> list[str]:
    return [str(problem) for report in validate(folder) for problem in report.problems]


def said(folder: Path, *parts: str) -> None:
    """Assert that one problem says all of this."""
    found = problems(folder)
    assert any(all(part in problem for part in parts) for problem in found), found


def record_of(folder: Path, method: str = "kd", seed: int = 0) -> Path:
    for path in sorted((folder / "records").glob("*.json")):
        cell = json.loads(path.read_text())["cell"]
        if (cell["method"]["name"], cell["seed"]) == (method, seed):
            return path
    raise AssertionError(method)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a record, and give it the id and the name that then fit."""
    record = json.loads(edit(path, change).read_text())
    record["id"] = identity(record["cell"])
    path.unlink()
    new = path.with_name(f"{record['id']}.json")
    new.write_text(json.dumps(record))
    return new


def cell_of(folder: Path, name: str, row: int, column: str, value: str) -> None:
    """Write a value into a CSV file; rows as in a spreadsheet."""
    table = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
    table.loc[row - 2, column] = value
    table.to_csv(folder / name, index=False)


# ------------------------------------------------------------------------------------------ clean


def test_a_clean_folder_gets_one_line(published: Path) -> None:
    result = CliRunner().invoke(app, ["validate", str(published)])
    assert result.exit_code == 0
    assert result.output.splitlines() == [f"{published}: 6 records, 2 of teachers, nothing wrong"]


def test_a_results_folder_is_checked_suite_by_suite(folder: Path) -> None:
    edit(record_of(folder), lambda record: record["result"].update(nll=-1.0))
    result = CliRunner().invoke(app, ["validate", str(folder.parent)])
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].endswith("problems")


@pytest.mark.parametrize(("name", "word"), [("absent", "does not exist"), ("", "holds no published suite")])
def test_a_folder_that_is_none_is_named(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(KDBenchError, match=word):
        validate(tmp_path / name)


def test_the_command_lists_every_problem(folder: Path) -> None:
    cell_of(folder, "runs.csv", 3, "top1", "175")
    edit(record_of(folder), lambda record: record["curve"].pop())
    record_of(folder, "student").write_text("{")
    (folder / "leaderboard.csv").unlink()
    result = CliRunner().invoke(app, ["validate", str(folder)])
    assert result.exit_code == 1
    for word in ("runs.csv, row 3, column top1: 175", "is damaged", "leaderboard.csv: it cannot be read", "1 points"):
        assert word in result.output


# ------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("name", schemas.ALL_FILES)
def test_every_column_is_documented(name: str) -> None:
    section = DOCS.read_text(encoding="utf-8").partition(f"### {name}\n")[2].partition("\n### ")[0]
    assert schemas.markdown(name, METRICS) in section


@pytest.mark.parametrize(
    ("name", "column", "value", "rule"),
    [
        ("runs.csv", "top1", "175", "175.0: it is not a number of 0 to 100"),
        ("runs.csv", "top1", "-3", "it is not a number of 0 to 100"),
        ("runs.csv", "top1", "best", "'best': it is not a number"),
        ("runs.csv", "nll", "inf", "it is not finite"),
        ("runs.csv", "seed", "-1", "it is not a whole number of 0 or more"),
        ("runs.csv", "seed", "0.5", "it is not a whole number"),
        ("runs.csv", "seed", "", "it is empty"),
        (
            "runs.csv",
            "status",
            "finished",
            "it is none of done, failed, not_applicable, older_source, other_engine, missing",
        ),
        ("runs.csv", "id", "12345", "it is not 16 hex digits"),
        ("runs.csv", "id", "", "a run that was made has an id"),
        ("runs.csv", "top1", "", "a done run has a top-1"),
        ("runs.csv", "best_top1", "0", "the best epoch is not worse than the last"),
        ("runs.csv", "compile", "yes", "it is none of true, false"),
        ("leaderboard.csv", "n", "1.5", "it is not a whole number"),
        ("leaderboard.csv", "vs_kd_p", "7", "it is not a number of 0 to 1"),
        ("leaderboard.csv", "digits, subset(per_class=8), cifar_resnet8 -> cifar_resnet8", "101", "of 0 to 100"),
        ("leaderboard_long.csv", "pair", "", "it is empty"),
        ("leaderboard_long.csv", "extra_parameters", "-4", "it is not a number of 0 or more"),
        ("leaderboard_long.csv", "best_top1_mean", "1", "the best epochs are not worse than the last"),
    ],
)
def test_a_value_that_a_column_does_not_allow_is_found(
    folder: Path, name: str, column: str, value: str, rule: str
) -> None:
    cell_of(folder, name, 3, column, value)
    said(folder, f"{name}, row 3, column {column}: ", rule)


def test_a_value_that_the_records_do_not_give_is_found(folder: Path) -> None:
    cell_of(folder, "runs.csv", 4, "top1", "99.5")
    said(folder, "runs.csv, row 4, column top1: '99.5': the records give '")
    said(folder, "runs.csv: it was changed after it was published")


def test_the_last_of_six_digits_may_differ_between_libraries(folder: Path) -> None:
    table = pd.read_csv(folder / "leaderboard.csv", dtype=str, keep_default_na=False)
    value = float(table.loc[0, "top1_std"])
    cell_of(folder, "leaderboard.csv", 2, "top1_std", f"{value * (1 + 2e-6):.6g}")
    assert all("top1_std" not in problem for problem in problems(folder))


def test_a_row_that_is_gone_is_found(folder: Path) -> None:
    lines = (folder / "runs.csv").read_text().splitlines()
    (folder / "runs.csv").write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    said(folder, "runs.csv: 'digits, subset(per_class=8), ", "the records give a row that is not there")


def test_a_row_that_is_there_twice_is_found(folder: Path) -> None:
    lines = (folder / "runs.csv").read_text().splitlines()
    (folder / "runs.csv").write_text("\n".join([*lines, lines[1]]) + "\n")
    said(folder, "runs.csv, row 8, column id: ", "the same cell stands there twice")


def test_a_row_of_nothing_is_found(folder: Path) -> None:
    cell_of(folder, "leaderboard_long.csv", 2, "method", "mine")
    said(folder, "leaderboard_long.csv, row 2: ", "mine': no record gives this row")


def test_columns_that_are_gone_strange_or_moved_are_found(folder: Path) -> None:
    table = pd.read_csv(folder / "runs.csv", dtype=str, keep_default_na=False)
    moved = ["seed", *(column for column in table.columns if column not in ("seed", "nll"))]
    table[moved].assign(mine="1").to_csv(folder / "runs.csv", index=False)
    said(folder, "runs.csv: there is no column 'nll'")
    said(folder, "runs.csv, row 1: 'mine': there is no such column")
    said(folder, "runs.csv, row 1: 'seed': the columns are not in the order of docs/results.md")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "it is empty"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"a,b\n1\n", "row 2 has 1 cells, but there are 2 columns"),
        (b"a,a\n1,2\n", "column 'a' stands there twice"),
        (b'a\n"b', "it is no CSV"),
        (None, "it cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_is_no_table_is_a_sentence(folder: Path, content: bytes | None, rule: str) -> None:
    (folder / "runs.csv").unlink()
    if content is not None:
        (folder / "runs.csv").write_bytes(content)
    said(folder, f"runs.csv: {rule}")


def test_curves_that_are_damaged_or_other_ones_are_found(folder: Path) -> None:
    curves = pd.read_parquet(folder / "curves.parquet")
    curves.loc[2, "top1"] = 101.0
    curves.to_parquet(folder / "curves.parquet")
    said(folder, "curves.parquet, row 4, column top1: 101.0: it is not a number of 0 to 100")
    said(folder, "curves.parquet: it is not what the records' curves give")
    (folder / "curves.parquet").write_bytes(b"PAR1")
    said(folder, "curves.parquet: it is no Parquet file that can be read")


def test_a_page_with_words_of_its_own_is_found(folder: Path) -> None:
    with (folder / "README.md").open("a") as file:
        file.write("mine is best\n")
    assert problems(folder) == ["README.md: it is not what the records give: publish again, and write elsewhere"]


# ------------------------------------------------------------------------------------------ records


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda r: r["result"].update(top1=99.0), ("result.top1: 99.0: the last point of the curve has",)),
        (lambda r: r["result"].update(best_top1=0.0), ("result.best_top1: 0.0: it is worse than the last epoch's",)),
        (lambda r: r["result"].update(best_top1=99.0), ("result.best_top1: 99.0: the best point of the curve has",)),
        (lambda r: r["result"].update(best_epoch=7), ("result.best_epoch: 7: that epoch of the curve has",)),
        (lambda r: r["result"].update(top5=101.0), ("result.top5: 101.0: it is not between 0 and 100",)),
        (lambda r: r["result"].update(nll=-0.5), ("result.nll: -0.5: it is negative",)),
        (lambda r: r["result"].update(nll=float("nan")), ("result.nll: nan: it is not finite",)),
        (lambda r: r["cost"].update(seconds_per_epoch=-1), ("cost.seconds_per_epoch: -1: it is negative",)),
        (lambda r: r["curve"].pop(), ("curve: it has 1 points, but the recipe has epochs 1 to 2",)),
        (lambda r: r["curve"].reverse(), ("curve: its epochs are not 1, 2, ... in order",)),
        (lambda r: r["curve"][0]["terms"].update(ce=None), ("curve[0].ce: it is not a finite number",)),
        (lambda r: r["cell"].update(seed=9), ("id: ", "the cell or the id was changed after the run")),
        (lambda r: r["cell"]["method"]["hyperparameters"].update(weight=9), ("the cell or the id was changed",)),
        (lambda r: r.update(status="fine"), ("status: 'fine': it is none of done, failed, not_applicable",)),
        (lambda r: r.update(suite="other"), ("suite: 'other': the folder is of suite 'tiny'",)),
        (lambda r: r["cell"].update(pair="a -> b"), ("cell.pair: 'a -> b': the suite has no such pair",)),
        (lambda r: r.pop("curve"), ("curve: it is missing",)),
        (lambda r: r["cell"].pop("recipe"), ("cell.recipe: it is missing",)),
        (lambda r: r["cell"].update(seed="0"), ("cell.seed: str is no type that it can have",)),
        (lambda r: r.update(schema=99), ("was written by a newer kdbench",)),
        (lambda r: r.update(schema=0), ("schema: 0: there is no such version of records",)),
        (lambda r: r.update(id="0" * 16), ("is damaged (it says id",)),
        (lambda r: r["teachers"][0].update(weights="f" * 16), ("teachers[0]: 'ffffffffffffffff': its record is not",)),
        (lambda r: r["teachers"][0].update(top1=99.0), ("teachers[0].top1: 99.0: the teacher's own record has",)),
    ],
)
def test_a_record_that_was_touched_is_found(
    folder: Path, change: Callable[[dict[str, Any]], object], parts: tuple[str, ...]
) -> None:
    path = edit(record_of(folder), change)
    said(folder, f"records/{path.name}", *parts)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda c: c.update(seed=7), "cell.seed: 7: the suite's seeds are 0, 1"),
        (lambda c: c["recipe"].update(learning_rate=0.1), "cell.recipe.learning_rate: 0.1: the suite has 0.05"),
        (lambda c: c["teacher_recipes"][0].update(epochs=9), "cell.teacher_recipes[0].epochs: 9: the suite has 2"),
        (lambda c: c.update(dataset="cifar10"), "the suite has no such data set, task and protocol"),
        (lambda c: c.update(protocol={}), "the suite has no such data set, task and protocol"),
        (lambda c: c.update(student="cifar_resnet20"), "the pair's student is 'cifar_resnet8'"),
        (lambda c: c["teachers"][0].update(seed=5), "they are neither the pair's teacher nor its pool"),
        (lambda c: c.update(role="teacher"), "a suite's records are of students"),
        (
            lambda c: c["method"]["hyperparameters"].update(weight=0.5),
            "hyperparameters.weight: 0.5: the suite has ",
        ),
    ],
)
def test_a_forged_record_is_not_of_the_suite(
    folder: Path, change: Callable[[dict[str, Any]], object], rule: str
) -> None:
    path = forge(record_of(folder), lambda record: change(record["cell"]))
    said(folder, f"records/{path.name}", rule)
    said(folder, f"records/{path.name}: it is not in card.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"id": 1}', b'{"schema": "x"}'])
def test_a_file_that_is_no_record_is_a_sentence(folder: Path, content: bytes) -> None:
    path = record_of(folder)
    path.write_bytes(content)
    said(folder, f"records/{path.name}: record ", "is damaged")


def test_a_file_that_does_not_belong_there_is_found(folder: Path) -> None:
    (folder / "records" / "notes.txt").write_text("")
    said(folder, "records/notes.txt: it is no record")


def test_a_record_that_is_gone_or_new_is_found(folder: Path, tiny_runs: Path) -> None:
    path = record_of(folder)
    path.unlink()
    said(folder, f"records/{path.name}: card.json names it, but it is not there")


def test_a_cell_that_ran_twice_is_found(folder: Path) -> None:
    path = record_of(folder)
    copied = Path(shutil.copy(path, path.with_name("copy.json")))
    forge(copied, lambda record: record["cell"]["method"].update(source="0" * 16))
    said(folder, "cell.method.label: 'kd': records/", "has the same method, place and seed")


def run_by_a_new_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "ENGINE", ENGINE + 1)
    monkeypatch.setattr(validation, "ENGINE", ENGINE + 1)


def test_a_folder_of_an_older_engine_is_held_against_it_and_that_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_by_a_new_engine(monkeypatch)
    (report,) = validate(folder)
    assert report.problems == []
    assert [note for note in report.notes if "engine" in note] == [
        f"its records are of engine {ENGINE} and held against it; "
        f"results of engine {ENGINE + 1} do not compare with them"
    ]
    path = edit(record_of(folder), lambda record: record["cell"].update(seed=1))
    said(folder, f"records/{path.name}, id: ", "the cell or the id was changed after the run")


def test_a_suite_of_ours_of_an_older_engine_may_have_been_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = parse.load("digits")
    monkeypatch.setattr(suites, "names", lambda: ["tiny"])
    monkeypatch.setattr(validation, "load", lambda name: ours)
    assert any("kdbench's suite of this name has" in problem for problem in problems(folder))
    run_by_a_new_engine(monkeypatch)
    assert problems(folder) == []


def test_records_of_two_engines_in_one_table_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record_of(folder)
    run_by_a_new_engine(monkeypatch)
    renewed = edit(path, lambda record: record.update(id=identity(record["cell"], ENGINE + 1)))
    renewed.rename(path.with_name(f"{json.loads(renewed.read_text())['id']}.json"))
    said(folder, f"it was run by engine {ENGINE}, others here by engine {ENGINE + 1}", "publish anew")


def test_a_teacher_without_record_is_found(folder: Path) -> None:
    shutil.rmtree(folder.parent / "teachers")
    said(folder, f"records/{record_of(folder).name}, teachers[0]: ", "its record is not in the folder 'teachers'")


def test_a_teachers_record_that_was_touched_is_found(folder: Path) -> None:
    path = sorted((folder.parent / "teachers" / "records").iterdir())[0]
    edit(path, lambda record: record["result"].update(top5=-1.0))
    said(folder, f"../teachers/records/{path.name}, result.top5: -1.0: it is not between 0 and 100")
    said(folder, f"../teachers/records/{path.name}: it was changed after it was published")


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in inner:
        yield from paths(item, (*path, key))


@pytest.mark.parametrize("junk", [None, "x", -1, 1e999, [], {}, [{}], True], ids=repr)
def test_no_record_is_so_broken_that_it_cannot_be_checked(published: Path, tiny_runs: Path, junk: Any) -> None:
    table = suite_table(parse.load(str(tiny_runs / "tiny.toml")))
    original = json.loads(record_of(published).read_text())
    for path in paths(original):
        record: Record = copy.deepcopy(original)
        target = record
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = junk
        if path[0] in ("id", "schema", "status") or not isinstance(record["cell"], dict):
            continue  # these are read_record's
        record = migrated(record)
        if not audit.shape("r", record):
            found = [*audit.audit("r", record, 2), *audit.misplaced("r", record, table)]
            [str(problem) for problem in (*found, *audit.untaught("r", record, {}, trained(record)))]


# ------------------------------------------------------------------------------------------ the card


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"{", "it cannot be read"),
        (b"[]", "its format is None, not 2"),
        (b'{"card": 99}', "its format is 99, not 2: upgrade kdbench"),
        (b'{"card": 1, "suite": {}}', "it is no card (suite.name: it is missing)"),
        (None, "it does not exist: make it with `kdbench publish`"),
    ],
)
def test_a_card_that_is_none_is_a_sentence(folder: Path, content: bytes | None, rule: str) -> None:
    (folder / "card.json").unlink()
    if content is not None:
        (folder / "card.json").write_bytes(content)
    said(folder, f"card.json: {rule}")


def test_a_card_that_says_something_else_is_found(folder: Path) -> None:
    edit(folder / "card.json", lambda card: card["hardware"][0].update(processor="another"))
    said(folder, "card.json, hardware: ", "the records give")


def test_another_suite_in_the_card_is_found(folder: Path) -> None:
    edit(folder / "card.json", lambda card: card["suite"]["recipe"].update(epochs=200))
    said(folder, "cell.recipe.epochs: 2: the suite has 200")
    said(folder, "card.json, suite_sha256: ")


def test_a_suite_with_the_name_of_one_of_ours_is_that_one(folder: Path) -> None:
    edit(folder / "card.json", lambda card: card["suite"].update(name="digits"))
    digits = folder.rename(folder.with_name("digits"))
    said(digits, "card.json, suite.recipe.batch_size: 32: kdbench's suite of this name has ")
    said(digits, "card.json, suite.datasets: ", "give yours another name")


def test_a_folder_that_is_named_otherwise_is_found(folder: Path) -> None:
    said(folder.rename(folder.with_name("mine")), "card.json, suite.name: 'tiny': its folder is named otherwise")


def test_a_method_of_another_source_is_noted_and_no_fault(folder: Path) -> None:
    for seed in (0, 1):
        forge(record_of(folder, seed=seed), lambda record: record["cell"]["method"].update(source="0" * 16))
    notes = validate(folder)[0].notes
    assert notes == ["method 'kd' was run from another source than it has in this kdbench"]


def test_a_method_that_kdbench_does_not_have_is_noted(folder: Path) -> None:
    forge(record_of(folder), lambda record: record["cell"]["method"].update(name="mine", label="mine"))
    assert "method 'mine' is not one of this kdbench: its file must come with the results" in validate(folder)[0].notes


def test_a_long_value_is_shortened() -> None:
    assert len(shown("x" * 1000)) == 80


def test_a_record_read_twice_is_the_same(published: Path) -> None:
    path = record_of(published)
    assert read_record(path) == json.loads(path.read_text())

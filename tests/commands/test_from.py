"""`kdbench run --from FOLDER`: published results are a starting point; only what is missing trains, or nothing does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from kdbench.board.publishing.publish import publish, remake
from kdbench.board.publishing.validate import validate
from kdbench.commands.cli import app
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Cell
from kdbench.training.cohort import Cohort

MINE = """
import torch.nn.functional as F
from kdbench import Method, Paper, register

@register("mine", family="logits", paper=Paper(title="T", authors="A", year=2026))
class Mine(Method):
    def loss(self, batch, student, teacher):
        return {"mine": F.mse_loss(student.logits, teacher.logits)}
"""


@pytest.fixture(scope="module")
def published(tiny_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite as somebody published it; never change it."""
    grid = parse.load(str(tiny_runs / "tiny.toml"))
    return publish(grid, tiny_runs, tmp_path_factory.mktemp("theirs") / "contributed").folder


@pytest.fixture
def theirs(published: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(published.parent, tmp_path / "theirs")) / "tiny"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that train, teachers among them."""
    seen: list[Cell] = []
    run = Cohort.run

    def noting(self: Cohort) -> list[Cell]:
        seen.extend(self.cells)
        return run(self)

    monkeypatch.setattr(Cohort, "run", noting)
    return seen


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(suite: Path, out: Path, *words: object) -> Result:
    return command("run", suite, "--out", out, "--device", "cpu", *words)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def refused(result: Result, *parts: str) -> None:
    sentence = str(result.exception)
    assert result.exit_code != 0
    assert all(part in sentence for part in parts), sentence


@pytest.mark.usefixtures("temporary")
def test_a_method_from_a_file_trains_its_own_cells_and_nothing_else(
    published: Path, tmp_path: Path, tiny_runs: Path, trained: list[Cell]
) -> None:
    mine, out, suite = tmp_path / "mine.py", tmp_path / "runs", tiny_runs / "tiny.toml"
    mine.write_text(MINE)
    before = snapshot(published.parent)
    words = ["--methods", f"student,kd,{mine}", "--from", published]
    planned = run(suite, out, *words, "--dry-run")
    assert "2 of 6 cells to run" in planned.output
    assert "teacher to train" not in planned.output
    assert not out.exists()

    result = run(suite, out, *words)
    assert result.exit_code == 0, result.output
    assert f"from {published}: 6 records, 2 teachers; 6 and 2 of them new here" in result.output
    assert [(cell.role, cell.method.label, cell.seed) for cell in trained] == [
        ("student", "mine", 0),
        ("student", "mine", 1),
    ]
    store = Store(out / "tiny")
    ours = {path.name for path in store.paths()} - {path.name for path in (published / "records").iterdir()}
    assert ours == {f"{cell.id}.json" for cell in trained}
    for path in (published / "records").iterdir():
        assert store.path(path.stem).read_bytes() == path.read_bytes()
    saw = {record["teachers"][0]["sha256"] for record in store.all()}
    assert saw == {
        Store(published.parent / "teachers").read(trained[0].training_of(trained[0].teachers[0]).id)["weights_sha256"]
    }
    table = pd.read_csv(out / "tiny" / "leaderboard.csv").set_index("method")
    assert set(table.index) >= {"student", "kd", "aver_mkd", "mine"}
    assert table["n"].eq(2).all()
    assert pd.notna(table.loc["mine", "vs_kd"])

    trained.clear()
    again = run(suite, out, *words)
    assert again.exit_code == 0, again.output
    assert (trained, "0 and 0 of them new" in again.output) == ([], True)
    for later in ("leaderboard", "status"):
        assert command(later, suite, "--out", out, "--methods", f"student,kd,{mine}").exit_code == 0
    assert snapshot(published.parent) == before

    done = publish(parse.narrow(parse.load(str(suite)), methods=[str(mine), "student", "kd"]), out, tmp_path / "ours")
    assert [report.problems for report in validate(done.folder)] == [[]]
    assert len(done.weights.files) == done.teachers == 2


def test_a_second_machine_goes_on_where_the_first_published(
    tiny_runs: Path, tmp_path: Path, trained: list[Cell]
) -> None:
    suite, results = tmp_path / "two.toml", tmp_path / "results"
    suite.write_text((tiny_runs / "tiny.toml").read_text().replace('"tiny"', '"two"').replace(', "aver_mkd"', ""))
    assert run(suite, tmp_path / "one", "--seeds", "0").exit_code == 0
    assert [cell.role for cell in trained] == ["teacher", "student", "student"]
    assert command("publish", suite, "--out", tmp_path / "one", "--to", results).exit_code == 0

    trained.clear()
    second = run(suite, tmp_path / "two", "--from", results / "two")
    assert second.exit_code == 0, second.output
    assert [(cell.role, cell.seed) for cell in trained] == [("student", 1), ("student", 1)]
    assert command("publish", suite, "--out", tmp_path / "two", "--to", results).exit_code == 0
    assert len(Store(results / "two").paths()) == 4
    assert [report.problems for report in validate(results)] == [[]]

    trained.clear()  # a third that has nothing left to do, and one that takes from a working folder
    assert run(suite, tmp_path / "three", "--from", results).exit_code == 0
    assert run(suite, tmp_path / "four", "--from", tmp_path / "two" / "two").exit_code == 0
    assert trained == []
    counts = command("merge", tmp_path / "one", tmp_path / "two", "--to", tmp_path / "merged")
    assert "4 of two" in counts.output
    assert run(suite, tmp_path / "merged").exit_code == 0
    assert trained == []


def kd(folder: Path, seed: int = 0) -> Path:
    return next(
        path
        for path in sorted((folder / "records").iterdir())
        if (cell := json.loads(path.read_text())["cell"])["method"]["name"] == "kd" and cell["seed"] == seed
    )


def _forge_score(folder: Path) -> None:
    edit(kd(folder), lambda record: record["result"].update(top1=99.0))


def _forge_alike(folder: Path) -> None:
    """A record that is sound in itself, and not the one that was published."""
    edit(kd(folder), lambda record: record["cost"].update(seconds_per_epoch=0.001))


def _cut(folder: Path) -> None:
    kd(folder).write_text("{")


def _forge_weights(folder: Path) -> None:
    one, other = sorted((folder.parent / "teachers" / "weights").iterdir())
    shutil.copyfile(one, other)


def _other_weights_seen(folder: Path) -> None:
    edit(kd(folder), lambda record: record["teachers"][0].update(sha256="0" * 64))
    remake(folder)


def _older_engine(folder: Path) -> None:
    path = kd(folder)
    edit(path, lambda record: record.update(id="0" * 16))
    path.rename(path.with_name("0" * 16 + ".json"))
    remake(folder)


def _no_card(folder: Path) -> None:
    (folder / "card.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (_forge_score, "the last point of the curve has"),
        (_forge_alike, "it was changed after it was published"),
        (_cut, "is damaged"),
        (_forge_weights, "it is of the training"),
        (_other_weights_seen, "the teacher's training left"),
        (_older_engine, "the digest of its cell is"),
        (_no_card, "its format is None"),
    ],
)
def test_a_forged_folder_is_refused_and_nothing_is_taken(
    theirs: Path, tiny_runs: Path, tmp_path: Path, trained: list[Cell], harm: Callable[[Path], None], word: str
) -> None:
    harm(theirs)
    result = run(tiny_runs / "tiny.toml", tmp_path / "runs", "--from", theirs)
    refused(result, "nothing was taken from", word)
    assert trained == []
    assert not list((tmp_path / "runs").rglob("*.json"))
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def _without_kd(folder: Path) -> None:
    """A published folder with work left to do."""
    for seed in (0, 1):
        kd(folder, seed).unlink()
    remake(folder)


def test_other_numerics_are_refused_with_the_option_that_helps(theirs: Path, tiny_runs: Path, tmp_path: Path) -> None:
    _without_kd(theirs)
    result = run(tiny_runs / "tiny.toml", tmp_path / "runs", "--from", theirs, "--threads", "2")
    refused(result, "would run with threads 2", "ran with threads 1", "add --threads 1, or leave --from out")
    assert not list((tmp_path / "runs").rglob("*.json"))


def test_another_precision_has_no_option_that_helps(theirs: Path, tiny_runs: Path, tmp_path: Path) -> None:
    _without_kd(theirs)
    for path in (theirs / "records").iterdir():
        edit(path, lambda record: record["provenance"]["numerics"].update(precision="other"))
    remake(theirs)
    result = run(tiny_runs / "tiny.toml", tmp_path / "runs", "--from", theirs)
    refused(result, "ran with precision other", "compared: leave --from out and run the methods")


def test_a_teacher_of_other_weights_is_refused(theirs: Path, tiny_runs: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    for path in (out / "teachers" / "records").iterdir():
        edit(path, lambda record: record.update(weights_sha256="0" * 64))
    result = run(tiny_runs / "tiny.toml", out, "--from", theirs)
    refused(result, "trained to other weights in", "choose a new folder with --out")


def test_a_result_that_differs_is_refused(theirs: Path, tiny_runs: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))

    def other(record: dict[str, Any]) -> None:
        record["result"].update(nll=9.25)
        record["curve"][-1].update(nll=9.25)

    edit(kd(out / "tiny"), other)
    refused(run(tiny_runs / "tiny.toml", out, "--from", theirs), "different results in different folders", "nll is")


def test_weights_that_are_not_carried_are_named_where_they_are_needed(
    theirs: Path, tiny_runs: Path, tmp_path: Path, trained: list[Cell]
) -> None:
    shutil.rmtree(theirs.parent / "teachers" / "weights")
    card = json.loads((theirs / "card.json").read_text())
    del card["weights"]
    (theirs / "card.json").write_text(json.dumps(card))
    whole = run(tiny_runs / "tiny.toml", tmp_path / "whole", "--from", theirs)
    assert whole.exit_code == 0, whole.output  # nothing is left to train
    _without_kd(theirs)
    result = run(tiny_runs / "tiny.toml", tmp_path / "runs", "--from", theirs)
    refused(result, "the weights of teacher cifar_resnet8@0 of", "publish them from where it was trained")
    assert trained == []


def test_a_failure_does_not_replace_what_was_begun_here_and_gives_way_to_a_result(
    theirs: Path, tiny_runs: Path, tmp_path: Path, trained: list[Cell]
) -> None:
    out = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))

    def fail(record: dict[str, Any]) -> None:
        record.update(status="failed", reason="why")
        for key in ("result", "cost", "curve", "teachers"):
            del record[key]

    edit(kd(out / "tiny", 0), fail)
    edit(kd(theirs, 1), fail)
    remake(theirs)
    assert run(tiny_runs / "tiny.toml", out, "--from", theirs).exit_code == 0
    assert [Store(out / "tiny").read(kd(theirs, seed).stem)["status"] for seed in (0, 1)] == ["done", "done"]
    assert trained == []


@pytest.fixture
def results(theirs: Path) -> Iterator[Path]:
    """A published results folder, which is as it was when the test is over."""
    before = snapshot(theirs.parent)
    yield theirs.parent
    assert snapshot(theirs.parent) == before


@pytest.mark.parametrize(
    "words", [["leaderboard"], ["leaderboard", "--common"], ["status"], ["run", "--dry-run"]], ids=" ".join
)
def test_what_shows_a_published_folder_leaves_it_alone(results: Path, tiny_runs: Path, words: Sequence[str]) -> None:
    shown = command(*words, tiny_runs / "tiny.toml", "--out", results)
    assert shown.exit_code == 0, shown.output
    if words[0] == "leaderboard":
        assert "is published, so that its tables are left as they are" in shown.output


def test_a_run_refuses_to_work_in_a_published_folder(results: Path, tiny_runs: Path) -> None:
    refused(run(tiny_runs / "tiny.toml", results), "to which runs do not write", "--from")


@pytest.mark.parametrize(("source", "word"), [("nowhere", "does not exist"), ("", "leave it out")])
def test_a_folder_of_no_use_is_named(tiny_runs: Path, tmp_path: Path, source: str, word: str) -> None:
    out = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    refused(run(tiny_runs / "tiny.toml", out, "--from", out / source), word)


def test_a_folder_of_another_suite_gives_its_teachers_only(
    theirs: Path, tiny_runs: Path, tmp_path: Path, trained: list[Cell]
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(
        (tiny_runs / "tiny.toml").read_text().replace('"tiny"', '"other"').replace("seeds = [0, 1]", "seeds = [7]")
    )
    assert run(other, tmp_path / "runs", "--methods", "kd", "--from", theirs).exit_code == 0
    assert [cell.role for cell in trained] == ["student"]
    nothing = tmp_path / "nothing.toml"
    nothing.write_text(other.read_text().replace("per_class = 8", "per_class = 7"))
    refused(run(nothing, tmp_path / "runs", "--from", theirs), "no record of suite 'other' and none of its teachers")


def test_records_of_another_recipe_are_said_to_stand_beside_nothing(
    theirs: Path, tiny_runs: Path, tmp_path: Path
) -> None:
    words = ["--methods", "student", "--seeds", "0", "--epochs", "1", "--from", theirs, "--dry-run"]
    assert (
        "no record is of the grid as it is run here" in run(tiny_runs / "tiny.toml", tmp_path / "runs", *words).output
    )

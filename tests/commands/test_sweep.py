"""`kdbench sweep`, `run --tuned`, `publish` and `validate`: from the trials to a published folder that holds them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from kdbench.board.publishing.validate import validate
from kdbench.board.sweeps.twins import copy_records, twins
from kdbench.commands.cli import app, main
from kdbench.records import Store
from kdbench.suites.grid import identity
from kdbench.suites.parse import load
from kdbench.suites.trials import with_values

pytest.importorskip("pyarrow")

TINY = """
name = "tiny"
seeds = [0, 1]
methods = ["student", "kd", "simkd"]

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 8 } }

[recipe]
epochs = 2
batch_size = 40

[sweep]
fraction = 0.1

[[pairs]]
teacher = "cifar_resnet8"
student = "cifar_resnet8"
"""


def invoke(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command that is refused says."""
    monkeypatch.setattr("sys.argv", ["kdbench", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of three trials and its tuned runs; copy it before you change it."""
    out = tmp_path_factory.mktemp("swept")
    suite = out / "tiny.toml"
    suite.write_text(TINY)
    said = invoke("sweep", suite, "--trials", 3, "--epochs-share", "1/2", "--out", out, "--device", "cpu")
    assert f"next: kdbench run {suite} --out {out} --tuned" in said
    assert "0.5 of the epochs" in said
    invoke("run", suite, "--seeds", 0, "--out", out, "--device", "cpu", "--tuned")
    return out


@pytest.fixture(scope="module")
def published(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published suite; never change it."""
    to = tmp_path_factory.mktemp("published")
    said = invoke("publish", swept / "tiny.toml", "--out", swept, "--to", to)
    assert "published 6 records, 9 of trials and 2 of teachers" in said
    return to / "tiny"


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published.parent, tmp_path / "results")) / published.name


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}


def of_row(folder: Path, label: str) -> Path:
    (found,) = (key for key, record in records(folder).items() if record["cell"]["method"]["label"] == label)
    return folder / "records" / f"{found}.json"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def problems(folder: Path) -> list[str]:
    return [str(problem) for report in validate(folder) for problem in report.problems]


def test_every_method_gets_the_same_trials_on_a_split_with_a_seed_of_their_own(swept: Path) -> None:
    found = list(records(swept / "tiny" / "sweep").values())
    counts = pd.Series([record["cell"]["method"]["name"] for record in found]).value_counts()
    assert counts.to_dict() == {"student": 3, "kd": 3, "simkd": 3}
    assert {record["cell"]["seed"] for record in found} == {1000}
    assert all("validation" in record["cell"]["protocol"] for record in found)
    assert {record["cell"]["recipe"]["epochs"] for record in found} == {1}
    assert json.loads((swept / "tiny" / "sweep" / "sweep.json").read_text()) == {
        **{"trials": 3, "share": 0.5, "seed": 1000, "fraction": 0.1}
    }


def test_a_tuned_row_is_trained_by_the_choice_and_its_record_holds_all_trials(swept: Path) -> None:
    trials = records(swept / "tiny" / "sweep")
    recipe = None
    for label in ("student (tuned)", "kd (tuned)", "simkd (tuned)"):
        record = json.loads(of_row(swept / "tiny", label).read_text())
        tuning = record["cell"]["method"]["tuning"]
        assert [trial["score"] for trial in tuning["trials"]] == [
            trials[trial["id"]]["result"]["top1"] for trial in tuning["trials"]
        ]
        scores = [trial["score"] for trial in tuning["trials"]]
        assert tuning["choice"] == scores.index(max(scores))
        assert "validation" not in record["cell"]["protocol"]
        assert record["cell"]["recipe"]["epochs"] == 2
        assert recipe in (None, tuning["recipe"])  # one for all rows
        recipe = tuning["recipe"]
        values = tuning["trials"][tuning["choice"]]["values"]
        own = {key: value for key, value in values.items() if not key.startswith("recipe.")}
        assert own.items() <= record["cell"]["method"]["hyperparameters"].items()
        assert recipe["values"].items() <= record["cell"]["recipe"].items()


def test_the_leaderboard_has_both_rows_side_by_side_without_being_asked(swept: Path) -> None:
    said = invoke("leaderboard", swept / "tiny.toml", "--seeds", 0, "--out", swept)
    assert "kd (tuned)" in said
    table = pd.read_csv(swept / "tiny" / "leaderboard.csv")
    assert sorted(table["method"]) == ["kd", "kd (tuned)", "simkd", "simkd (tuned)", "student", "student (tuned)"]
    assert set(table["missing"]) == {0}
    assert set(table.loc[table["trials"].notna(), "trials"]) == {3}


def test_a_sweep_goes_on_where_it_is_and_more_trials_keep_those_that_are_there(swept: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(swept, tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (out / "tiny" / "sweep" / "records").iterdir()}
    asked = ("--epochs-share", "1/2", "--out", out, "--device", "cpu")
    invoke("sweep", out / "tiny.toml", "--trials", 3, *asked)
    assert {path: path.stat().st_mtime_ns for path in (out / "tiny" / "sweep" / "records").iterdir()} == before
    said = invoke("sweep", out / "tiny.toml", "--trials", 4, *asked, "--dry-run")
    assert "of 11 cells to run" in said.replace("\n", " ")  # simkd's space has three points
    status = invoke("status", out / "tiny.toml", "--seeds", 0, "--out", out)
    assert "6" in status


def test_a_choice_that_is_the_suite_s_own_setting_is_not_trained_again(swept: Path, tmp_path: Path) -> None:
    store = Store(Path(shutil.copytree(swept / "tiny", tmp_path / "tiny")))
    cell = next(cell for cell in load(str(swept / "tiny.toml")).cells() if cell.method.label == "kd" and cell.seed == 0)
    chosen = json.loads(of_row(swept / "tiny", "kd (tuned)").read_text())["cell"]["method"]["tuning"]
    tuned = with_values(dataclasses.replace(cell, tuning={**chosen, "choice": 0}), {}, "kd (tuned)")
    other = with_values(dataclasses.replace(cell, tuning=chosen), {"temperature": 3.0}, "kd (tuned)")
    assert twins([cell, tuned, other]) == {tuned.id: cell}
    copy_records([cell, tuned, other], store)
    copied, record = store.read(tuned.id), store.read(cell.id)
    assert copied["id"] == identity(copied["cell"]) != record["id"]
    assert copied["result"] == record["result"]
    assert copied["cell"]["method"]["label"] == "kd (tuned)"
    assert not store.has(other.id)


def test_without_a_complete_sweep_one_sentence_says_what_to_run(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, empty = swept / "tiny.toml", tmp_path / "empty"
    said = sentence(monkeypatch, capsys, "run", suite, "--out", empty, "--tuned")
    assert f"has no sweep in {str(empty / 'tiny')!r}: run `kdbench sweep {suite} --out {empty}` first" in said
    more = ("run", suite, "--methods", "student,dist", "--out", swept, "--tuned")
    said = sentence(monkeypatch, capsys, *more)
    assert "3 of 6 trials of suite 'tiny' have no record" in said
    assert "--trials 3 --epochs-share 0.5" in said
    assert "seed 1000 is of a result" in sentence(monkeypatch, capsys, "run", suite, "--seeds", "1000", *more[4:])
    assert "'half' is no share" in sentence(monkeypatch, capsys, "sweep", suite, "--epochs-share", "half")


def test_the_published_folder_holds_the_sweep_and_is_sound(published: Path, tmp_path: Path) -> None:
    assert problems(published) == []
    card = json.loads((published / "card.json").read_text())
    assert len(card["sweep"]) == 9
    assert {row["label"] for row in card["suite"]["tuned"]} == {"kd (tuned)", "simkd (tuned)", "student (tuned)"}
    assert "Tuned rows: 3 trials of the recipe" in (published / "README.md").read_text()
    again = Path(shutil.copytree(published.parent, tmp_path / "again")) / "tiny"
    before = {path: path.read_bytes() for path in again.rglob("*") if path.is_file()}
    invoke("publish", again)  # made anew from its own card and records
    assert {path: path.read_bytes() for path in again.rglob("*") if path.is_file()} == before


def test_a_published_sweep_is_a_starting_point(swept: Path, published: Path, tmp_path: Path) -> None:
    """Its choices are trained without its trials, and where all is there nothing trains at all."""
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    chosen = [swept / "tiny.toml", "--out", tmp_path, "--device", "cpu", "--from", published]
    said = invoke("run", *chosen, "--seeds", 0, "--tuned")
    trials = sorted((published / "sweep" / "records").glob("*.json"))
    assert f"from {published}: {len(trials)} trials" in said
    assert [path.read_bytes() for path in trials] == [
        (tmp_path / "tiny" / "sweep" / "records" / path.name).read_bytes() for path in trials
    ]
    here = {path.name: path.read_bytes() for path in (tmp_path / "tiny" / "records").glob("*.json")}
    there = {path.name: path.read_bytes() for path in (published / "records").glob("*.json")}
    assert here == there
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before


def test_the_recipe_alone_is_swept_from_a_published_folder(swept: Path, published: Path, tmp_path: Path) -> None:
    """The plain student has no trials but the recipe's: the second half of the sweep has nothing to do."""
    words = ["sweep", swept / "tiny.toml", "--methods", "student", "--out", tmp_path, "--device", "cpu"]
    said = invoke(*words, "--trials", 3, "--epochs-share", "1/2", "--from", published)
    assert "next: kdbench run" in said
    folders = tmp_path / "tiny", published
    made, there = ({path.name for path in (folder / "sweep" / "records").glob("*.json")} for folder in folders)
    assert made == there


def test_trials_of_two_ways_do_not_mix(
    swept: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(published / "sweep", tmp_path / "tiny" / "sweep")
    file = tmp_path / "tiny" / "sweep" / "sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seed": 1234}))
    words = ["run", swept / "tiny.toml", "--out", tmp_path, "--from", published, "--tuned", "--seeds", 0]
    assert "made in another way than those of" in sentence(monkeypatch, capsys, *words)


def test_sources_of_two_ways_do_not_mix(
    swept: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(swept / "tiny", other / "tiny")
    file = other / "tiny" / "sweep" / "sweep.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seed": 1234}))
    words = ["run", swept / "tiny.toml", "--out", tmp_path / "here", "--tuned", "--from", published, "--from", other]
    said = sentence(monkeypatch, capsys, *words)
    assert f"the trials in '{published}' were made in another way than those of '{other}'" in said
    assert "leave --from of one of them out" in said
    assert not (tmp_path / "here" / "tiny").exists()


def test_a_dry_run_counts_trials_that_would_come(swept: Path, published: Path, tmp_path: Path) -> None:
    """It plans what the run itself would do, and writes nothing."""
    chosen = [swept / "tiny.toml", "--out", tmp_path / "here", "--device", "cpu", "--from", published, "--dry-run"]
    trials = f"from {published}: 9 trials"
    run = invoke("run", *chosen, "--seeds", "0,1", "--tuned")
    assert trials in run
    assert "6 of 12 cells to run" in run
    assert "kd (tuned)" in run
    sweep = invoke("sweep", *chosen, "--trials", 3, "--epochs-share", "1/2")
    assert trials in sweep
    assert "0 of 9 cells to run" in sweep
    assert not (tmp_path / "here").exists()


def test_a_published_folder_is_no_place_for_a_sweep(
    swept: Path, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = sentence(monkeypatch, capsys, "sweep", swept / "tiny.toml", "--out", published.parent, "--trials", 9)
    assert "holds published results" in said


def test_a_merge_carries_the_sweep(swept: Path, tmp_path: Path) -> None:
    assert "9 of tiny/sweep" in invoke("merge", swept, "--to", tmp_path / "merged").replace("\n", " ")
    invoke("publish", swept / "tiny.toml", "--out", tmp_path / "merged", "--to", tmp_path / "results")
    assert problems(tmp_path / "results" / "tiny") == []


def test_methods_that_were_swept_in_two_folders_stand_on_one_board(tmp_path: Path) -> None:
    """Both try the recipe, with the same results and in their own times; `student(...)` tunes it in neither by name."""
    suite = tmp_path / "tiny.toml"
    smooth = '{ name = "student", label_smoothing = 0.1 }'
    suite.write_text(
        TINY.replace('"student"', smooth, 1).replace("seeds = [0, 1]", 'seeds = [0]\nteacher_seeds = "paired"')
    )
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, method in zip(folders, ("kd", "simkd"), strict=True):
        chosen = [suite, "--methods", method, "--out", folder, "--device", "cpu"]
        invoke("sweep", *chosen, "--trials", 2, "--epochs-share", "1/2")
        invoke("run", *chosen, "--tuned")
    invoke("merge", *folders, "--to", tmp_path / "merged")
    invoke("publish", suite, "--out", tmp_path / "merged", "--to", tmp_path / "results")
    found = records(tmp_path / "results" / "tiny").values()
    tuned = {record["cell"]["method"]["label"] for record in found if record["cell"]["method"].get("tuned")}
    assert tuned == {"kd (tuned)", "simkd (tuned)"}
    assert problems(tmp_path / "results" / "tiny") == []


Edit = Callable[[dict[str, Any]], object]


def tuning(record: dict[str, Any]) -> dict[str, Any]:
    return record["cell"]["method"]["tuning"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda r: tuning(r).update(choice=(tuning(r)["choice"] + 1) % 3),
            "by the scores on the validation split it is",
        ),
        (lambda r: tuning(r)["trials"].pop(), "it has 2 trials, and every method gets 3"),
        (lambda r: tuning(r)["sweep"].update(trials=2), "all methods get the same"),
        (lambda r: tuning(r)["trials"][0].update(score=99.5), "its own record has"),
        (lambda r: tuning(r)["trials"][0].update(values={"kd_weight": 5.0, "temperature": 4.0}), "its own record has"),
        (lambda r: tuning(r)["recipe"]["values"].update(learning_rate=9.0), "the trial that is chosen has"),
        (
            lambda r: tuning(r)["recipe"]["trials"][1].update(score=0.5),
            "the recipe is one for all tuned rows of a place",
        ),
        (lambda r: r["cell"]["method"]["hyperparameters"].update(temperature=99.0), "the sweep chose"),
        (lambda r: r["cell"]["method"].pop("tuning"), "cell.method.tuning: it is missing"),
        (lambda r: tuning(r).pop("trials"), "cell.method.tuning.trials: it is missing"),
    ],
)
def test_a_tuned_row_that_is_not_what_its_trials_say_is_a_fault(folder: Path, edit: Edit, said: str) -> None:
    change(of_row(folder, "kd (tuned)"), edit)
    found = problems(folder)
    assert any(said in problem for problem in found), found


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r["cell"]["protocol"].pop("validation"), "scored on the test set, not on a validation split"),
        (lambda r: r["cell"].update(seed=0), "seed 0, which is one of the results"),
        (lambda r: r["cell"]["recipe"].update(epochs=2), "2 epochs, and all of them get 1"),
        (lambda r: r["cell"].update(student="cifar_resnet14"), "on other data or other networks"),
        (lambda r: r["cell"]["method"].update(name="dkd"), "its record is of method 'dkd'"),
    ],
)
def test_a_trial_that_broke_the_rules_is_a_fault(folder: Path, edit: Edit, said: str) -> None:
    row = json.loads(of_row(folder, "kd (tuned)").read_text())
    change(folder / "sweep" / "records" / f"{tuning(row)['trials'][0]['id']}.json", edit)
    found = problems(folder)
    assert any(said in problem for problem in found), found


def test_trials_without_a_record_and_records_without_a_row_are_faults(folder: Path) -> None:
    row = json.loads(of_row(folder, "kd (tuned)").read_text())
    lost = folder / "sweep" / "records" / f"{tuning(row)['trials'][0]['id']}.json"
    lost.rename(folder.parent / "kept.json")
    found = problems(folder)
    assert any("its record is not in sweep/records" in problem for problem in found)
    assert any(f"sweep/records/{lost.name}: card.json names it" in problem for problem in found)
    (folder.parent / "kept.json").rename(lost)
    of_row(folder, "kd (tuned)").unlink()
    assert any("no tuned row names this trial" in problem for problem in problems(folder))


def test_a_cell_of_a_tuned_row_can_be_made_of_the_card_alone(published: Path) -> None:
    from kdbench.commands.rerun import cells_of

    ids = {cell.id for cell in cells_of(json.loads((published / "card.json").read_text())["suite"])}
    assert set(records(published)) <= ids


def test_the_page_shows_the_score_against_each_hyperparameter(swept: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    invoke("report", swept / "tiny.toml", "--seeds", 0, "--out", swept, "--site", tmp_path / "site", "--no-plots")
    (script,) = (tmp_path / "site" / "data").glob("*.js")
    figures = json.loads(script.read_text().partition(",")[2].removesuffix(");\n"))
    assert {kind for kind in figures if kind.startswith("trials-")} == {
        *(f"trials-kd-tuned-{name}" for name in ("kd_weight", "temperature")),
        "trials-simkd-tuned-factor",
        *(f"trials-student-tuned-recipe.{name}" for name in ("learning_rate", "weight_decay")),
        "trials-student-tuned-label_smoothing",
    }
    weight = figures["trials-kd-tuned-kd_weight"]
    assert weight["layout"]["xaxis"]["type"] == "log"
    assert sum(len(trace["x"]) for trace in weight["data"]) == 3
    assert figures["trials-kd-tuned-temperature"]["layout"]["xaxis"]["type"] == "category"
    page = (tmp_path / "site" / "methods" / "kd-tuned.html").read_text()
    assert 'data-kind="trials-kd-tuned-kd_weight"' in page
    assert "suite&#39;s own setting" in page
    assert 'id="trials"' not in (tmp_path / "site" / "methods" / "kd.html").read_text()

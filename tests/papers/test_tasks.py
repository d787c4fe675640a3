"""What papers on text, translation and detection report: their tables, their metrics, and how they are run again."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdbench.board.page.data import Results
from kdbench.board.reproduction import metrics_of_entries, reproduction_table
from kdbench.board.terminal import reproduction as render
from kdbench.commands import cli
from kdbench.commands.show import print_method
from kdbench.errors import KDBenchError
from kdbench.papers.recipes import load_recipes, resolve_recipe
from kdbench.papers.reported import (
    TASK_COLUMNS,
    UNKNOWN,
    Reported,
    by_paper,
    check_methods,
    load,
    load_all,
    load_other,
    of_method,
    tasks_of,
)
from kdbench.papers.table import Choice, Entry, protocol
from kdbench.suites.networks import canonical
from kdbench.tasks.metrics import of

TASKS = ("detection", "text", "translation")
FOREIGN = {"seq_kd+seq_inter+word_kd"}  # kdbench has each, and cannot run them as one
BERT = "google-bert/bert-base-uncased"
GFL = "gfl_resnet101 -> gfl_resnet50"
ROW = "LD (CVPR 2022),README,ld,coco,gfl_resnet101,gfl_resnet50,ap,42.1,,,unknown,coco-1x,"


@pytest.fixture(scope="module")
def rows() -> list[Reported]:
    return [row for row in load_all() if row.task != "image"]


def value(rows: list[Reported], paper: str, method: str, student: str, dataset: str, metric: str) -> list[float]:
    wanted = (method, student, dataset, metric)
    found = [row for row in rows if row.paper.startswith(paper)]
    return [row.value for row in found if (row.method, row.student, row.dataset, row.metric) == wanted]


def written(folder: Path, *lines: str, task: str = "detection") -> Path:
    (folder / task).mkdir()
    (folder / task / "own.csv").write_text("\n".join([",".join(TASK_COLUMNS), *lines]) + "\n")
    return folder


def shown(name: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_method(console, name)
    return console.file.getvalue()  # type: ignore[attr-defined]


# the tables


def test_each_task_has_its_tables_and_images_come_first(rows: list[Reported]) -> None:
    assert tasks_of() == ["image", *TASKS]
    assert {row.task for row in rows} == set(TASKS)
    everything = load_all()
    assert everything[: len(load())] == load()
    assert all((row.task, row.metric) == ("image", "top1") for row in load())


def test_labels_are_registered_or_known_to_be_absent(rows: list[Reported]) -> None:
    assert check_methods(rows) == FOREIGN


def test_metrics_are_those_of_the_tasks_and_networks_have_their_one_spelling(rows: list[Reported]) -> None:
    for row in rows:
        assert row.score in of(row.task).scores
        assert (canonical(row.teacher), canonical(row.student)) == (row.teacher, row.student)


def test_values_are_those_of_the_papers(rows: list[Reported]) -> None:
    six = f"{BERT}(layers=6)"
    assert value(rows, "CrossKD (", "cross_kd", "gfl_resnet50", "coco", "ap") == [43.7]
    assert value(rows, "CrossKD, ablations", "cross_kd(convolutions=0)", "gfl_resnet18", "coco", "ap") == [38.2]
    assert value(rows, "CrossKD, ablations", "cross_kd", "gfl_resnet18", "coco", "ap") == [38.7]
    assert value(rows, "LD", "fgfi", "gfl_resnet50", "coco", "ap") == [41.1]
    assert value(rows, "FGD", "fgd", "retinanet_resnet50", "coco", "ap") == [40.7]
    assert value(rows, "PKD", "pkd", "retinanet_resnet50", "coco", "ap") == [40.8, 41.5, 40.3]
    assert value(rows, "DistilBERT", "distilbert", six, "glue:cola", "score") == [51.3]
    assert value(rows, "TextBrewer", "bert_pkd", six, "glue:mnli", "mismatched") == [81.0]
    assert value(rows, "MiniLMv2 (", "minilm", six, "glue:rte", "score") == [72.1]
    assert value(rows, "MiniLMv2, a reproduction", "minilm", six, "glue:rte", "score") == [60.65]
    assert value(rows, "Seq-KD", "seq_kd+seq_inter+word_kd", UNKNOWN, "en-de", "bleu") == [18.5]


def test_a_reproductions_average_is_that_of_its_five_tasks(rows: list[Reported]) -> None:
    for paper in ("MiniLMv2 (", "MiniLMv2, a reproduction"):
        own = [row for row in rows if row.paper.startswith(paper) and row.student == f"{BERT}(layers=6)"]
        single = [row.value for row in own if row.dataset != "glue"]
        (average,) = [row.value for row in own if row.dataset == "glue"]
        assert average == pytest.approx(sum(single) / 5, abs=0.006)


def test_an_average_says_so(rows: list[Reported]) -> None:
    averages = [row for row in rows if row.dataset == "glue"]
    assert {row.paper.partition(" (")[0].partition(",")[0] for row in averages} == {"ALP-KD", "DistilBERT", "MiniLMv2"}
    assert all("average" in row.note for row in averages)


def test_recalled_values_stand_nowhere(rows: list[Reported]) -> None:
    assert not [row for row in rows if "memory" in (row.source + row.note).lower()]
    assert {row.value for row in rows if row.task == "translation"} == {18.5, 14.2}


def test_no_value_stands_in_two_places(rows: list[Reported]) -> None:
    papers = {row.paper for row in rows}
    kept = {(row["paper"], row["metric"]) for row in load_other() if row["paper"] in papers}
    assert not {metric for _, metric in kept} & {score.name for task in TASKS for score in of(task).scores}


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (",ap,", ",app,", "did you mean 'ap'"),
        ("42.1", "142.1", "value is 142.1, but it must be from 0 to 100"),
        ("42.1", "", "value is empty"),
        ("ld,coco", "LD,coco", "is no label"),
        ("unknown", "final", "unknown selection 'final'"),
    ],
)
def test_a_row_that_breaks_the_schema_is_named(tmp_path: Path, old: str, new: str, part: str) -> None:
    with pytest.raises(KDBenchError, match=r"own\.csv, line 2") as error:
        load_all(written(tmp_path, ROW.replace(old, new)))
    assert part in str(error.value)


def test_two_scores_of_one_run_are_two_values(tmp_path: Path) -> None:
    found = load_all(written(tmp_path, ROW, ROW.replace(",ap,", ",ap50,")))
    assert [row.score.title for row in found] == ["AP", "AP50"]
    (tmp_path / "again").mkdir()
    with pytest.raises(KDBenchError, match=r"line 3 repeats own\.csv, line 2"):
        load_all(written(tmp_path / "again", ROW, ROW))


def test_a_folder_that_is_no_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match="unknown task 'detektion': did you mean 'detection'"):
        load_all(written(tmp_path, ROW, task="detektion"))


@pytest.mark.parametrize("task", TASKS)
def test_every_recipe_is_valid_and_used(task: str, rows: list[Reported]) -> None:
    tables = load_recipes(task=task)
    for name in tables:
        recipe, used = resolve_recipe(name, tables), [row for row in rows if (row.task, row.recipe) == (task, name)]
        assert used
        known = {dataset.name for dataset in recipe.grid.datasets}
        assert {row.dataset for row in used} <= {*known, *(each.partition(":")[0] for each in known)}
        pairs = {row.pair for row in rows if row.task == task}
        assert all(pair in (*pairs, "*") for tuned in recipe.tuned.values() for pair in tuned)
    assert {row.recipe for row in rows if row.task == task} - {UNKNOWN} == set(tables)


# what is shown


def test_a_methods_own_paper_is_shown_with_the_name_of_its_score() -> None:
    text = shown("cross_kd")
    for part in ("reported in CrossKD (CVPR 2024), AP in %", GFL, "43.70", "contradicted", "ablations (CVPR 2024) 6"):
        assert part in text, part
    assert "mismatched accuracy" in shown("bert_pkd")


def test_a_report_shows_values_of_its_own_task_and_score(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.board.page import data

    monkeypatch.setattr(data.Tables, "__init__", lambda self, *_: setattr(self, "metrics", of("detection")))
    kept = Results("own", "", [], reported=load_all()).reported
    assert {(row.task, row.metric) for row in kept} == {("detection", "ap")}
    assert list(by_paper(of_method(kept, "fgd"))) == ["FGD (CVPR 2022)"]


# what is run


def test_crosskds_table_is_run_under_its_weights_for_each_detector() -> None:
    table = protocol("cross_kd")
    assert table.paper == "CrossKD (CVPR 2024)"
    ours = {e.pair: e.cells[0] for e in table.entries if e.method == "cross_kd" and e.cells}
    assert ours[GFL].method.hyperparameters == {}
    fcos = ours["fcos_resnet101 -> fcos_resnet50"]
    assert fcos.method.hyperparameters == {"cls_weight": 0.4, "box_weight": 0.75, "convolutions": 2}
    assert fcos.recipe.epochs == 24
    assert ours["retinanet_resnet101 -> retinanet_resnet50"].method.hyperparameters == {"box_weight": 1.0}
    assert {cell.recipe.epochs for pair, cell in ours.items() if pair == GFL} == {12}
    assert {cell.dataset.name for cell in table.cells} == {"coco"}
    assert not any(e.method == "kd" for e in table.entries)  # a detector has no classes to choose one of


def test_what_cannot_be_run_or_compared_says_why() -> None:
    found = {(e.pair, e.method): e.obstacle for e in protocol("cross_kd").entries}
    assert found["atss_resnet101 -> atss_resnet50", "cross_kd"] == "kdbench has no network 'atss_resnet101'"
    assert "640 px" in found[GFL, "cross_kd"]
    assert {e.obstacle for e in protocol("fgd", Choice(pairs=["unknown -> gfl"])).entries if e.method == "fgd"} == {
        "its recipe is not known"
    }


def test_an_average_is_not_compared_with_one_data_set() -> None:
    entries = protocol("alp_kd").entries
    assert {e.method for e in entries} == {"alp_kd"}
    assert all(not e.cells and "an average of several data sets (glue:cola, ...)" in e.obstacle for e in entries)


def test_glues_rows_are_cells_of_its_data_sets() -> None:
    table = protocol("distilbert", Choice(datasets=["glue:sst2"]))
    assert {(cell.dataset.name, cell.pair.student) for cell in table.cells} == {("glue:sst2", f"{BERT}(layers=6)")}
    assert "distils on the task" in next(e.obstacle for e in table.entries if e.method == "distilbert")


def test_methods_with_values_of_other_scores_alone_are_told_so() -> None:
    with pytest.raises(KDBenchError, match=r"does not measure \(EM, F1, Rouge-L\).*kdbench show makd"):
        protocol("makd")
    with pytest.raises(KDBenchError, match="no table of results/reported has a value of 'mhd'"):
        protocol("mhd")


def test_each_value_is_compared_with_its_own_score() -> None:
    table = protocol("bert_pkd", Choice(pairs=["layers=3"], seeds=(0, 1)))
    entries = [Entry(e.dataset, e.pair, e.method, e.reported, e.cells) for e in table.entries]  # no caveat
    ids = next([cell.id for cell in e.cells] for e in entries if e.method == "bert_pkd")
    results = [{"score": 76.6, "best_score": 76.9, "mismatched": 70.0}, {"score": 76.8, "best_score": 77.0}]
    results[1]["mismatched"] = 70.2
    records: list[Any] = [
        {"id": i, "status": "done", "reason": "", "result": result} for i, result in zip(ids, results, strict=True)
    ]
    frame = reproduction_table(entries, records)
    ours = frame[frame["method"] == "bert_pkd"].set_index("metric")
    assert ours["verdict"].to_dict() == {"score": "reproduced", "mismatched": "below"}
    assert ours.loc["mismatched", "measured"] == pytest.approx(70.1)
    assert ours.loc["mismatched", "score_mean"] == pytest.approx(76.7)
    assert metrics_of_entries(entries) is of("text")
    console = Console(file=io.StringIO(), width=120)
    for part in render(frame, of("text")):
        console.print(part)
    assert "mismatched" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_table_of_the_primary_score_has_no_column_of_it() -> None:
    assert "metric" not in reproduction_table(protocol("cross_kd", Choice(pairs=[GFL])).entries, [])
    assert "metric" in reproduction_table(protocol("seq_kd").entries, [])


def test_the_command_says_which_files_are_missing_and_where_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "cross_kd", "--dry-run", "--pairs", GFL, "--out", str(tmp_path), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["kdbench", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for part in (
        "coco-1x is of suite coco",
        "15",
        "cross_kd+pkd",
        "43.70",
        "instances_train2017.json",
        "train2017 and val2017",
        "6 not run",
    ):
        assert part in text, part
    assert not list(tmp_path.iterdir())

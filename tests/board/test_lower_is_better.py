"""A task that is scored by perplexity: lower is better, and every table, sentence, plot and check turns round.

Most records here are written by hand for a task of which there is a table of metrics and nothing else; those of the
second part are trained.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from support import toy_language
from support.page_records import PAIRS, page_record

from kdbench.board import terminal
from kdbench.board.compare import compare
from kdbench.board.page import plots, summary
from kdbench.board.page.build import build
from kdbench.board.page.cells import columns
from kdbench.board.page.data import Results
from kdbench.board.page.latex import latex_tables
from kdbench.board.power import plan
from kdbench.board.publishing.publish import publish, remake
from kdbench.board.publishing.schemas import ALL_FILES, FILES, parse_csv, tables, violations
from kdbench.board.publishing.validate import validate
from kdbench.board.results import Tables
from kdbench.board.tables import csv_bytes
from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.suites import parse
from kdbench.tasks.metrics import Metric, Metrics, register
from kdbench.testing import trial

VERSE = register(
    Metrics(
        "verse",
        (
            Metric("perplexity", "perplexity", "", "perplexity of a token", higher_is_better=False, low=1, decimals=3),
            Metric("hits", "hits", "%", "tokens that are guessed, %", low=0, high=100, shown=True),
        ),
    )
)
TEACHER = 20.0
LEVELS = {"student": 30.0, "kd": 25.0, "dkd": 24.0, "dist": 27.0}  # dkd is the best, and the dearest
SECONDS = {"student": 10.0, "kd": 12.0, "dkd": 15.0, "dist": 13.0}


def verse(method: str, perplexity: float, pair: str = PAIRS[0], seed: int = 0, **changes: Any) -> dict[str, Any]:
    """One finished run of three epochs, whose second is its best."""
    record = page_record(method, pair, seed, seconds=SECONDS.get(method, 10.0), epochs=3, **changes)
    record["cell"]["task"] = "verse"
    scores = {1: perplexity + 9, 2: perplexity - 1, 3: perplexity}
    for point in record["curve"]:
        del point["top1"]
        point |= {"perplexity": scores[point["epoch"]], "terms": {}}
    record["result"] = {"perplexity": perplexity, "hits": 40.0, "best_perplexity": perplexity - 1, "best_epoch": 2}
    record["result"]["extra"] = {}
    record["teachers"] = [{"network": "T", "seed": 0, "weights": "0", "perplexity": TEACHER}]
    return record


def noise(method: str, pair: str, seed: int) -> float:
    return 0.3 * seed + 0.05 * ((len(method) + len(pair) + seed) % 3)


RECORDS = [
    verse(method, level + noise(method, pair, seed), pair, seed)
    for method, level in LEVELS.items()
    for pair in PAIRS
    for seed in range(3)
]


@pytest.fixture(scope="module")
def results() -> Results:
    return Results("verses", "by hand", RECORDS)


def row(frame: pd.DataFrame, method: str) -> pd.Series:
    return frame[frame["method"] == method].iloc[-1]


# ---- tables ----


def test_files_call_their_columns_after_the_metric(results: Results) -> None:
    assert list(results.runs)[9:18] == [
        *("status", "reason", "teacher", "teacher_perplexity", "student", "perplexity", "hits", "best_perplexity"),
        "best_epoch",
    ]
    assert {"perplexity_mean", "perplexity_std", "best_perplexity_mean"} <= set(results.long)
    for frame in results.files.values():
        assert "top1" not in "".join(frame)


def test_the_lowest_mean_is_first(results: Results) -> None:
    assert results.wide["method"].tolist() == ["dkd", "kd", "dist", "student"]
    assert results.wide["teachers"].tolist() == [1, 1, 1, 0]
    assert results.wide["rank"].tolist() == [1, 2, 3, 1]
    assert results.wide["mean_rank"].tolist() == [1, 2, 3, 1]
    assert results.wide["borda"].tolist() == [4, 2, 0, 0]


def test_differences_are_as_measured_and_counts_say_who_is_better(results: Results) -> None:
    dkd, dist = row(results.wide, "dkd"), row(results.wide, "dist")
    assert dkd["vs_kd"] == pytest.approx(-1.0, abs=0.1)
    assert (dkd["wins"], dkd["ties"], dkd["losses"]) == (2, 0, 0)
    assert (dist["wins"], dist["ties"], dist["losses"]) == (0, 0, 2)
    assert dkd["probability_of_improvement"] > 0.9
    assert dist["probability_of_improvement"] == 0
    assert dkd["ari"] == pytest.approx(20, abs=2)
    assert dist["ari"] < 0


def test_the_gap_is_the_teachers_lead_downwards(results: Results) -> None:
    assert row(results.wide, "kd")["gap_closed"] == pytest.approx(0.5, abs=0.03)
    poor = [{**r, "teachers": [{**r["teachers"][0], "perplexity": 40.0}]} for r in RECORDS]
    assert Tables(poor).wide["gap_closed"].isna().all()


def test_the_front_holds_what_is_low_or_cheap(results: Results) -> None:
    place = results.long[results.long["pair"] == PAIRS[0]].set_index("method")
    assert place["pareto"].to_dict() == {"dkd": True, "kd": True, "dist": False, "student": True}


def test_equal_scores_share_a_rank_and_a_missing_one_is_last() -> None:
    failed = page_record("crd", PAIRS[0], 0, status="failed", reason="it broke")
    failed["cell"]["task"], failed["teachers"] = "verse", []
    long = Tables([verse("a", 5.0), verse("b", 5.0), verse("c", 4.0), failed]).long
    place = long[long["pair"] == PAIRS[0]]
    assert place["method"].tolist() == ["c", "a", "b", "crd"]
    assert place["rank"].tolist()[:3] == [1, 2, 2]


def test_average_ranks_put_the_lowest_left(results: Results) -> None:
    assert {name: data.methods for name, data in results.rankings.items()} == {"one": ("dkd", "kd", "dist")}


def test_what_the_tables_hold_is_what_their_columns_allow(results: Results) -> None:
    assert {*results.files, "curves.parquet"} == set(FILES)
    assert set(tables(VERSE)) == set(ALL_FILES)
    for name, frame in results.files.items():
        assert [str(p) for p in violations(name, parse_csv(csv_bytes(frame)), VERSE)] == []
    runs = parse_csv(csv_bytes(results.runs))
    runs.loc[0, ["perplexity", "best_perplexity"]] = "25.0", "25.5"
    runs.loc[1, "perplexity"] = "0.5"
    found = [str(problem) for problem in violations("runs.csv", runs, VERSE)]
    assert any("the best epoch is not worse than the last" in problem for problem in found)
    assert any("0.5: it is not a number of 1 or more" in problem for problem in found)


# ---- sentences ----


def test_a_comparison_calls_the_lower_one_better() -> None:
    found = compare(RECORDS, "dkd", "kd")
    assert found.verdict.startswith("dkd is better than kd by ")
    assert " of perplexity (95 % CI -" in found.verdict
    assert compare(RECORDS, "dist", "kd").verdict.startswith("dist is worse than kd by ")


def test_the_seeds_that_are_needed_have_the_metrics_unit() -> None:
    assert plan(RECORDS, "dkd", "kd", delta=0.25).sentence.startswith("to tell dkd and kd apart by 0.250 takes ")


def test_a_terminal_says_that_lower_is_better(results: Results) -> None:
    console = Console(file=io.StringIO(), width=200)
    for part in (*terminal.leaderboard(results, 200), *terminal.suite(results, 200)):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("perplexity (n)", "lower is better", "teacher 20.000", "hits", "25.350"):
        assert word in text
    assert "points" not in text
    assert "top" not in text


# ---- the page ----


def test_the_headline_names_the_lowest(results: Results, tmp_path: Path) -> None:
    index = build(results, tmp_path, latex=True, pictures=False).read_text(encoding="utf-8")
    assert "dkd</a> has the lowest mean perplexity,\n24." in index
    assert "Perplexity of the last epoch counts; lower is better." in index
    assert "Test perplexity by epoch" in index
    assert "calibration" not in index.lower()
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8").partition("What papers report")[0].lower()
        assert "top-1" not in text
        assert "accuracy" not in text


def test_a_click_sorts_the_lowest_first(results: Results) -> None:
    first = {column.key: column.best_first for column in columns(VERSE)}
    assert (first["score"], first["vs_kd"], first["score-hits"]) == ("ascending", "ascending", "descending")
    assert results.boards[0].cells["score"][0].order == pytest.approx(24.35, abs=0.1)


def test_marks_colours_and_whiskers_turn_round(results: Results) -> None:
    board = results.boards[-1]
    by_method = dict(zip((row["method"] for row in board.rows), board.cells["vs_kd"], strict=True))
    assert (by_method["dkd"].mark, by_method["dist"].mark) == ("better", "worse")
    assert by_method["dkd"].whisker is not None
    _, mean, _, zero = by_method["dkd"].whisker
    assert mean > zero  # the better is to the right, on every page
    assert by_method["dkd"].text.startswith("\u2212")
    heat = summary.heat(results)
    strength = {row.method: row.strength for row in heat.rows}
    assert min(strength["dkd"]) > 0 > max(strength["dist"])
    assert (heat.worst[0], heat.best[0]) == ("+", "\u2212")


def test_plots_join_the_low_front_and_name_the_direction(results: Results) -> None:
    figure = plots.pareto(results.boards[-1].rows, VERSE.primary)
    front = figure["data"][-1]
    assert front["text"] == ["student", "kd", "dkd"]
    assert front["y"] == sorted(front["y"], reverse=True)
    assert figure["layout"]["yaxis"]["title"]["text"] == "test perplexity (lower is better)"
    curve = results.curves(results.places[0])["kd"]
    assert len(curve.mean) == 3


def test_latex_sets_the_lowest_in_bold(results: Results) -> None:
    text = latex_tables(results)
    bold = [line for line in text.splitlines() if r"\textbf" in line]
    assert all(line.startswith(("dkd & 1 & ", "student & 0 & ")) for line in bold)
    assert len(bold) == 2 * len(results.boards)
    assert "Method & Teachers & Perplexity & $n$ & To student & To kd" in text
    assert "lower is better" in text


# ---- trained, published, forged ----


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("language")
    LocalExecutor(out, trial._Silent(0), device="cpu").run(parse.parse(toy_language.SUITE).cells())
    return out


@pytest.fixture(scope="module")
def published(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(parse.parse(toy_language.SUITE), runs, tmp_path_factory.mktemp("results")).folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published.parent, tmp_path / "results")) / published.name


def problems(folder: Path) -> str:
    return "\n".join(str(problem) for report in validate(folder) for problem in report.problems)


def forge(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change one record of kd, and publish what it then gives."""
    for path in sorted((folder / "records").glob("*.json")):
        record = json.loads(path.read_text())
        if record["cell"]["method"]["name"] == "kd":
            change(record)
            path.write_text(json.dumps(record))
            break
    remake(folder)


def test_a_published_folder_is_clean_and_says_better_and_worse(published: Path) -> None:
    assert problems(published) == ""
    text = (published / "README.md").read_text(encoding="utf-8")
    assert "| # | method | teachers | perplexity | n |" in text
    assert "Perplexity of the last epoch, mean ± sample" in text
    assert "n: finished runs. Lower is better. Differences, paired by seed" in text
    assert "**Better than kd** (" in text
    assert "Above" not in text
    curves = pd.read_parquet(published / "curves.parquet")
    assert list(curves)[7:13] == ["learning_rate", "loss", "seconds", "perplexity", "bits", "distance"]


def test_the_best_epoch_is_the_lowest(published: Path) -> None:
    runs = pd.read_csv(published / "runs.csv")
    assert (runs["best_perplexity"] <= runs["perplexity"]).all()


@pytest.mark.parametrize("factor", [0.5, 2.0], ids=["lower", "higher"])
def test_a_forged_score_is_not_what_the_curve_ends_in(folder: Path, factor: float) -> None:
    forge(folder, lambda r: r["result"].update(perplexity=1 + factor * (r["result"]["perplexity"] - 1)))
    assert "result.perplexity: " in problems(folder)
    assert "the last point of the curve has" in problems(folder)


@pytest.mark.parametrize("factor", [0.5, 2.0], ids=["lower", "higher"])
def test_a_score_that_is_forged_with_its_curve_is_not_what_the_rest_of_the_result_gives(
    folder: Path, factor: float
) -> None:
    def change(record: dict[str, Any]) -> None:
        forged = 1 + factor * (record["result"]["perplexity"] - 1)
        points = [*record["curve"][:-1], record["curve"][-1] | {"perplexity": forged}]
        best = min((p for p in points if "perplexity" in p), key=lambda point: point["perplexity"])
        record["curve"] = points
        record["result"] |= {"perplexity": forged, "best_perplexity": best["perplexity"], "best_epoch": best["epoch"]}

    forge(folder, change)
    assert "result.perplexity: " in problems(folder)
    assert "the rest of the result gives" in problems(folder)
    assert "the curve" not in problems(folder)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda r: r["result"].update(best_perplexity=99.0), "it is worse than the last epoch's"),
        (lambda r: r["result"].update(best_perplexity=1.0), "the best point of the curve has"),
        (lambda r: r["result"].update(best_epoch=1), "that epoch of the curve has"),
        (lambda r: r["result"].update(perplexity=0.5), "it is below 1"),
        (lambda r: r["teachers"][0].update(perplexity=1.2), "the teacher's own record has"),
    ],
)
def test_a_forgers_traces_are_found(folder: Path, change: Callable[[dict[str, Any]], object], rule: str) -> None:
    forge(folder, change)
    assert rule in problems(folder)


def test_a_report_is_made_of_what_was_trained(runs: Path, tmp_path: Path) -> None:
    records = [json.loads(path.read_text()) for path in (runs / "language" / "records").glob("*.json")]
    made = Results("language", "trained", records)
    page = build(made, tmp_path, latex=True, pictures=True)
    assert "lowest mean perplexity" in page.read_text(encoding="utf-8")
    assert np.isfinite(made.wide["perplexity_mean"]).all()


# ---- tasks that are not known ----


def test_records_of_an_unknown_task_get_a_sentence(folder: Path) -> None:
    stranger = verse("kd", 5.0)
    stranger["cell"]["task"] = "vrse"
    with pytest.raises(KDBenchError, match=r"vrse.*verse"):
        _ = Tables([stranger]).wide
    for path in (folder / "records").glob("*.json"):
        path.write_text(path.read_text().replace('"language"', '"lnguage"'))
    assert "cell.task: 'lnguage': " in problems(folder)


def test_records_of_two_tasks_have_no_common_table() -> None:
    with pytest.raises(KDBenchError, match="of several tasks"):
        _ = Tables([verse("kd", 5.0), page_record("kd")]).runs

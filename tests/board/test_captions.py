"""What captions say of a board: whose correction, whether the teacher leads, and what the seeds can tell."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.board_records import NINE, PAIRS, THREE, printed, record, tables, wide_row
from support.page_records import synthetic
from typer.testing import CliRunner

from kdbench.board import captions, terminal
from kdbench.board.page.data import Results
from kdbench.board.page.latex import latex_tables
from kdbench.board.publishing.readme import readme
from kdbench.board.results import Tables
from kdbench.commands.cli import app

METHODS = ("student", "kd", "dkd", "crd", "at")
LEVELS = (0.0, 1.0, 1.2, 1.4, 2.2)
PLACE = ("d", "clean", "T -> S")


def suite_of(seeds: range = range(3), teachers: dict[int, float] | None = None) -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    return [
        record(method, 70 + level + random.normal(0, 0.3), seed, teacher=(teachers or {}).get(seed, 80.0))
        for method, level in zip(METHODS, LEVELS, strict=True)
        for seed in seeds
    ]


def taught(run: dict[str, Any], score: float) -> dict[str, Any]:
    """The same run by a teacher of another score."""
    return {**run, "teachers": [{**run["teachers"][0], "top1": score}]}


def notes(records: list[dict[str, Any]], place: tuple[str, ...] = PLACE) -> str:
    return " ".join(captions.notes(tables(records).grid, place))


# ---- the family of tests


def test_what_is_too_coarse_to_test_counts_in_holms_correction() -> None:
    same = [
        record("same", r["result"]["top1"] + 1, r["cell"]["seed"]) for r in THREE if r["cell"]["method"]["name"] == "kd"
    ]
    board = tables([*THREE, *same]).long
    board = board[board["pair"] != "overall"].set_index("method")
    assert math.isnan(board["vs_kd_p"]["same"])
    assert board["vs_kd_tests"]["dkd"] == 3
    assert board["vs_kd_p_holm"].min() == pytest.approx(3 * board["vs_kd_p"].min())


def test_a_method_that_lacks_a_run_stays_in_the_family_of_all_boards() -> None:
    broken = [record("new", 70.0 + seed, seed) for seed in range(3)]  # at one of three pairs
    for common in (False, True):
        wide = tables([*NINE, *broken], common=common).wide
        assert wide_row(wide, "crd")["vs_kd_tests"] == 4
    assert "for 4 methods, all that ran here, shown or not" in captions.correction(wide.to_dict("records"))


def test_places_are_won_by_the_correction_that_their_marks_have() -> None:
    few = suite_of(range(4))
    crowd = [record(f"m{n}", 71 + 0.3 * ((seed * 7 + n) % 5), seed) for n in range(60) for seed in range(4)]
    won = []
    for records in (few, [*few, *crowd]):
        both = [*records, *({**r, "id": r["id"] + "U", "cell": {**r["cell"], "pair": "U -> S"}} for r in records)]
        made = tables(both)
        marks = made.long[(made.long["pair"] != "overall") & (made.long["method"] == "at")]["vs_kd_p_holm"] < 0.05
        won.append(wide_row(made.wide, "at")["wins"])
        assert won[-1] == marks.sum()
    assert won == [2, 0]


def test_shares_of_a_gain_that_may_be_none_are_left_out() -> None:
    sure = wide_row(tables(NINE).wide, "crd")["ari"]
    wobbly = [
        record("kd", r["result"]["top1"] + (-1) ** seed * 3, seed, r["cell"]["pair"])
        if (seed := r["cell"]["seed"], r["cell"]["method"]["name"])[1] == "kd" and r["cell"]["pair"] == "U -> S"
        else r
        for r in NINE
    ]
    unsure = wide_row(tables(wobbly).wide, "crd")
    assert sure == pytest.approx(50, abs=5)
    assert math.isnan(unsure["ari"])
    assert wide_row(tables(wobbly).wide, "kd")["d, U -> S"] > wide_row(tables(wobbly).wide, "student")["d, U -> S"]


# ---- seeds


def test_methods_may_have_fewer_seeds_than_others() -> None:
    cells = [
        {**dict.fromkeys(("suite", "dataset", "family"), "d"), "task": "image", "protocol": {}, "student": "S"}
        | {"pair": pair, "label": r, "name": r, "seed": seed}
        for pair in PAIRS[:2]
        for r, seeds in (("student", 5), ("kd", 5), ("dkd", 3))
        for seed in range(seeds)
    ]
    random = np.random.default_rng(2)
    runs = [
        record(c["label"], 70 + 2 * (c["label"] != "student") + random.normal(0, 0.2), c["seed"], c["pair"])
        for c in cells
    ]
    made = tables(runs, cells)
    kd, dkd = (wide_row(made.wide, m) for m in ("kd", "dkd"))
    assert (kd["n"], kd["missing"], kd["vs_student_n"]) == (10, 0, 10)
    assert (dkd["n"], dkd["missing"], dkd["vs_student_n"], dkd["vs_kd_n"], dkd["remark"]) == (6, 0, 6, 6, "")
    scores = [r["result"]["top1"] for r in runs if r["cell"]["method"]["name"] == "dkd"]
    assert dkd["top1_mean"] == pytest.approx(np.mean(scores))
    assert made.wide["rank"].notna().all()
    assert dkd["vs_kd_tests"] == kd["vs_student_tests"] == 2
    told = " ".join(captions.notes(made.grid))
    assert re.search(
        r"5 seeds \(1 methods\) can tell differences to kd of about [\d.]+ points, 3 seeds \(1 methods\)", told
    )
    assert wide_row(tables(runs[:-1], cells).wide, "dkd")["remark"] == "incomplete (1 missing)"


@pytest.mark.parametrize("seeds", [1, 2])
def test_of_two_seeds_no_table_has_p_interval_or_mark(seeds: int) -> None:
    records = suite_of(range(seeds))
    more = [{**r, "id": r["id"] + "U", "cell": {**r["cell"], "pair": "U -> S"}} for r in records]
    made = tables([*records, *more])
    for table in (made.long, made.wide):
        for baseline in ("student", "kd"):
            columns = [f"vs_{baseline}{part}" for part in ("_p", "_p_holm", "_ci95_low", "_ci95_high")]
            assert table[columns].isna().all(axis=None)
    assert (made.wide["wins"].dropna() == 0).all()
    assert "Fewer than 3 seeds tell no difference" in notes(records)
    assert "*" not in "".join(line for line in printed(terminal.suite(made, 160), 160).splitlines() if "│" in line)


# ---- the teacher


def test_one_teacher_leads_if_the_students_interval_leaves_it_out() -> None:
    scores = [r["result"]["top1"] for r in suite_of() if r["cell"]["method"]["name"] == "student"]
    mean, half = np.mean(scores), 4.302653 * np.std(scores, ddof=1) / math.sqrt(3)
    for teacher, poor in ((mean + 1.05 * half, False), (mean + 0.95 * half, True)):
        records = suite_of(teachers=dict.fromkeys(range(3), float(teacher)))
        assert ("The teacher is not clearly better than the plain student" in notes(records)) is poor


def test_teachers_of_each_seed_are_held_against_the_student_of_that_seed() -> None:
    scores = [r["result"]["top1"] for r in suite_of() if r["cell"]["method"]["name"] == "student"]
    steady = {seed: score + 1 + 0.01 * seed for seed, score in enumerate(scores)}
    turned = {seed: score + 1 + (-2) ** seed for seed, score in enumerate(scores)}
    assert "The teacher" not in notes(suite_of(teachers=steady))
    assert "this board cannot tell methods apart" in notes(suite_of(teachers=turned))


def test_over_all_pairs_those_with_a_poor_teacher_are_named() -> None:
    poor = [
        {**r, "teachers": [{**r["teachers"][0], "top1": 60.0}]} if r["cell"]["pair"] == "U -> S" else r for r in NINE
    ]
    text = printed(terminal.suite(tables(poor), 300), 300)
    assert "On 1 of 3 pairs (U -> S) the teacher is not clearly better than the plain student" in text
    assert "The teacher" not in notes(poor)


# ---- one text everywhere


def test_page_latex_readme_and_terminal_say_the_same(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from kdbench.board.page.build import build

    records = [
        {**r, "teachers": [{**r["teachers"][0], "top1": 60.0}]}
        for r in synthetic(METHODS, gaps=False, pairs=["A -> B"])
    ]
    results = Results("synthetic", "", records)
    (board,) = results.boards
    poor, reach = board.notes
    assert "this board cannot tell methods apart" in poor
    assert re.match(r"3 seeds can tell differences to kd of about [\d.]+ points", reach)
    build(results, tmp_path, latex=True, pictures=False)
    for page in ("index.html", "pairs/a-b.html"):
        text = (tmp_path / page).read_text()
        assert poor in text
        assert reach in text
        assert "Holm&#39;s correction for 4 methods" in text
    assert poor in latex_tables(results)
    assert "Holm's correction for 4 methods" in latex_tables(results)
    shown = " ".join(printed(terminal.leaderboard(results, 160), 160).split())
    assert poor in shown
    assert reach in shown
    card: Any = {
        "suite": {"name": "s", "description": "", "datasets": [{"name": "cifar10", "task": "image", "protocol": {}}]}
        | {"seeds": [0, 1, 2], "pairs": [], "recipe": {}, "teacher_recipe": {}, "student_recipes": {}}
        | {"teacher_recipes": {}, "methods": []},
        "counts": {"done": 15},
        **{key: [] for key in ("hardware", "numerics", "versions", "engines", "git", "left_out")},
        "dates": {"first": "2026-01-01", "last": "2026-01-02"},
    }
    published = readme(card, Tables(records), []).replace("\\", "")
    assert poor in published
    assert reach in published
    assert "Marked after Holm's correction for 4 methods" in published


def test_power_is_answered_before_a_run_and_from_what_is_assumed(tmp_path: Path) -> None:
    def said(*options: str) -> str:
        result = CliRunner().invoke(app, ["power", "digits", "--out", str(tmp_path), *options], env={"COLUMNS": "160"})
        assert result.exit_code == 0, result.output
        return result.output

    text = said()
    assert "3 seeds can tell differences to kd of about" in text
    assert "after the correction for 7 methods" in text
    assert re.search(r"assumed: the median of \d+ published spreads on other data, 0\.\d\d points of one run", text)
    assert "paired differences spread by 0.80 points, assumed by --sd" in said("--sd", "0.8")
    assert "10 seeds can tell" in said("--seeds", ",".join(map(str, range(10))), "--sd", "0.8")
    assert "Fewer than 3 seeds tell no difference to kd." in said("--seeds", "0,1")
    assert "seeds for 2" in said("--delta", "2")


@pytest.mark.parametrize("option", ["--sd", "--delta"])
def test_a_spread_or_difference_of_nothing_is_refused(option: str) -> None:
    result = CliRunner().invoke(app, ["power", "digits", option, "0"])
    assert f"{option} 0 is no spread and no difference" in str(result.exception)

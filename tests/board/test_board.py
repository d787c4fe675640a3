"""Tables and comparisons from synthetic records: what is counted, paired, ranked, and left empty."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats
from support.board_records import NINE, PAIRS, THREE, cell, printed, record, row, tables, wide_row
from typer.testing import CliRunner

from kdbench.board import terminal, terminal_comparison
from kdbench.board.compare import compare
from kdbench.board.power import plan
from kdbench.board.runs import protocol_text, runs_table
from kdbench.board.statistics.intervals import holm, paired, summary
from kdbench.board.statistics.power import seeds_needed
from kdbench.board.statistics.ranks import CriticalDifference
from kdbench.board.tables import write_csv
from kdbench.board.wide import ranking as ranking_of
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError


def leaderboard_table(*args: Any, **options: Any) -> pd.DataFrame:
    return tables(*args, **options).long


def wide_table(*args: Any, **options: Any) -> pd.DataFrame:
    return tables(*args, **options).wide


def ranking(records: list[dict[str, Any]]) -> CriticalDifference | None:
    return ranking_of(tables(records).grid)


def without(records: list[dict[str, Any]], method: str, seed: int, pair: str) -> list[dict[str, Any]]:
    """The records with one that failed."""
    hit = f"{method}{seed}{pair}"
    return [record(method, None, seed, pair) if r["id"] == hit else r for r in records]


def test_the_interval_is_students_t() -> None:
    values = [72.0, 72.5, 74.5]
    s = summary(values)
    low, high = stats.t.interval(0.95, 2, loc=73.0, scale=stats.sem(values))
    assert (s.n, s.mean, s.std) == (3, 73.0, pytest.approx(stats.tstd(values)))
    assert (s.low, s.high) == (pytest.approx(low), pytest.approx(high))


def test_one_run_has_no_spread_and_none_has_no_mean() -> None:
    one, none = summary([70.0]), summary([])
    assert one.mean == 70.0
    assert all(math.isnan(value) for value in (one.std, one.low, one.high, none.mean))


def test_paired_differences_follow_the_paired_t_test() -> None:
    a, b = [72.0, 72.5, 74.5], [70.0, 71.0, 72.0]
    d = paired(a, b)
    assert d.mean == 2.0
    assert d.p == pytest.approx(stats.ttest_rel(a, b).pvalue)


@pytest.mark.parametrize("shift", [0.0, 1.5, 0.28])
@pytest.mark.parametrize("scores", [[98.0, 97.5], [90.0, 89.72, 89.44]])
def test_equal_differences_give_neither_p_nor_interval(shift: float, scores: list[float]) -> None:
    found = paired([score + shift for score in scores], scores)
    assert found.mean == pytest.approx(shift)
    assert np.isnan([found.p, found.low, found.high]).all()
    assert np.isnan(holm([found.p, 0.4, 0.4])[0])


def test_a_pair_row_has_mean_spread_differences_and_cost() -> None:
    kd = row(leaderboard_table(THREE), "kd")
    assert (kd["n"], kd["top1_mean"], kd["rank"]) == (3, 73.0, 1)
    assert (kd["vs_student"], kd["vs_student_n"]) == (2.0, 3)
    assert math.isnan(kd["vs_kd"])
    assert kd["time_ratio_to_student"] == 1.5
    assert kd["best_top1_mean"] == 74.0


def test_the_rank_is_by_the_last_epoch_not_by_the_best() -> None:
    records = [record("late", 72.0), record("early", 71.0)]
    records[1]["result"]["best_top1"] = 99.0
    table = leaderboard_table(records)
    assert (row(table, "late")["rank"], row(table, "early")["rank"]) == (1, 2)


def test_equal_means_share_a_rank() -> None:
    table = leaderboard_table([record("a", 70.0), record("b", 70.0), record("c", 69.0)])
    assert [row(table, m)["rank"] for m in "abc"] == [1, 1, 3]


def test_a_missing_seed_is_counted_and_its_pair_mean_says_so() -> None:
    expected = [cell(method, seed) for method in ("student", "kd") for seed in range(3)]
    kd = row(leaderboard_table(THREE[:5], expected), "kd")
    assert (kd["n"], kd["missing"], kd["top1_mean"], kd["vs_student_n"]) == (2, 1, 72.25, 2)
    assert kd["remark"] == "1 missing"


@pytest.mark.parametrize("gap", ["missing", "failed", "not_applicable"])
def test_no_overall_mean_is_taken_over_an_incomplete_method(gap: str) -> None:
    records = [record(m, v, pair=p) for m, v in (("student", 70.0), ("kd", 72.0)) for p in ("T -> S", "U -> S")]
    if gap == "missing":
        records.pop()
    else:
        records[-1] = record("kd", None, pair="U -> S", status=gap)
    expected = [cell(m, pair=p) for m in ("student", "kd") for p in ("T -> S", "U -> S")]
    table = leaderboard_table(records, expected)
    kd, student = row(table, "kd", "overall"), row(table, "student", "overall")
    assert math.isnan(kd["top1_mean"])
    assert math.isnan(kd["rank"])
    assert kd[gap] == 1
    assert kd["remark"].startswith("incomplete (1 ")
    assert student["top1_mean"] == 70.0
    assert row(table, "kd")["top1_mean"] == 72.0


def test_the_overall_mean_counts_every_pair_alike_and_its_spread_is_over_seeds() -> None:
    values = {("T -> S", 0): 70.0, ("T -> S", 1): 72.0, ("U -> S", 0): 80.0, ("U -> S", 1): 86.0}
    table = leaderboard_table([record("student", v, s, p) for (p, s), v in values.items()])
    overall = row(table, "student", "overall")
    assert overall["top1_mean"] == 77.0
    assert overall["top1_std"] == pytest.approx(stats.tstd([75.0, 79.0]))


def test_protocols_are_told_apart() -> None:
    noise = {"label_noise": {"rate": 0.4, "kind": "symmetric"}}
    table = leaderboard_table([record("kd", 70.0), record("kd", 60.0, protocol=noise)])
    assert set(table["protocol"]) == {"clean", "label_noise(kind=symmetric, rate=0.4)"}
    assert protocol_text({}) == "clean"


def test_a_run_row_has_what_mutual_methods_add() -> None:
    runs = runs_table([record("dml", 70.0, extra={"ensemble_top1": 71.0}), record("kd", 70.0)])
    assert runs.set_index("method").loc["dml", "extra.ensemble_top1"] == 71.0


def test_without_kd_its_columns_are_empty() -> None:
    table = leaderboard_table([record("student", 70.0), record("dkd", 71.0)])
    assert table["vs_kd"].isna().all()
    assert row(table, "dkd")["vs_student"] == 1.0


def test_a_baseline_with_settings_of_its_own_is_the_baseline_where_it_is_the_only_one() -> None:
    records = [record("kd", 70.0), record("dkd", 71.5)]
    records[0]["cell"]["method"]["label"] = "kd(temperature=1.0)"
    table = leaderboard_table(records)
    assert row(table, "dkd")["vs_kd"] == 1.5
    assert math.isnan(row(table, "kd(temperature=1.0)")["vs_kd"])


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    shuffled = NINE.copy()
    random.Random(1).shuffle(shuffled)
    for make in (leaderboard_table, runs_table, wide_table):
        for name, records in (("a", NINE), ("b", shuffled)):
            write_csv(make(records), tmp_path / f"{name}.csv")
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_csv_carries_no_formula_and_no_mangled_number(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"text": ["=1+1", "-x", "kd"], "number": [-1.23456789, 3.0, math.nan], "flag": [True, False, True]}
    )
    write_csv(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "text,number,flag",
        "'=1+1,-1.23457,true",
        "'-x,3,false",
        "kd,,true",
    ]


def test_a_table_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KDBenchError, match="choose another folder with --out"):
        write_csv(pd.DataFrame(), tmp_path / "file" / "t.csv")


def test_a_clear_difference_is_called_one() -> None:
    verdict = compare(THREE, "kd", "student").verdict
    assert verdict.startswith("kd is better than student by 2.00 points of top-1 (95 % CI +0.76 to +3.24, p = 0.02")
    assert compare(THREE, "student", "kd").verdict.startswith("student is worse than kd")


def test_equal_differences_are_called_too_coarse_to_test() -> None:
    runs = [record(name, score, seed) for seed in (0, 1, 2) for name, score in (("a", 70.0 + seed), ("b", 69.5 + seed))]
    verdict = compare(runs, "a", "b").verdict
    assert verdict == "cannot tell a and b apart: +0.50 points of top-1 in each of 3 paired runs, too coarse to test"


def test_an_unclear_difference_is_called_unclear() -> None:
    assert compare(THREE, "dkd", "kd").verdict.startswith("cannot tell dkd and kd apart: -0.33 points")


def test_one_seed_is_too_few_to_tell() -> None:
    assert compare([record("a", 70.0), record("b", 60.0)], "a", "b").verdict.startswith("too few seeds")


def test_comparing_with_a_method_that_has_no_run_names_the_nearest() -> None:
    with pytest.raises(KDBenchError, match="did you mean 'dkd'"):
        compare(THREE, "dkdd", "kd")


def test_comparing_runs_of_different_seeds_is_refused() -> None:
    with pytest.raises(KDBenchError, match="no finished run of the same pair and seed"):
        compare([record("a", 70.0, 0), record("b", 70.0, 1)], "a", "b")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_leaderboard_fits_the_terminal_and_shows_the_essentials(width: int) -> None:
    text = printed(terminal.leaderboard(tables(THREE), width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "73.00 ± 1.32 (3)" in text
    assert "+2.00 [+0.76, +3.24]" in text
    assert ("MACs" in text) == (width == 160)


def test_a_terminal_of_80_columns_shows_the_difference_to_kd_and_its_star() -> None:
    runs = [{**r, "cell": {**r["cell"], "method": {**r["cell"]["method"]}}} for r in NINE]
    for run in runs:
        if run["cell"]["method"]["label"] == "crd":
            run["cell"]["method"]["label"] = "at(weight=62.5)"
    assert "vs kd" in printed(terminal.leaderboard(tables(runs), 80), 80)


def test_a_star_marks_a_difference_to_kd_that_stands_for_the_number_of_methods() -> None:
    more = [record(m, kd["result"]["top1"] + seed - 1, seed) for m in "xy" for seed, kd in enumerate(THREE[3:6])]
    few, many = (printed(terminal.leaderboard(tables(r), 100), 100) for r in (THREE, [*THREE, *more]))
    assert "-2.00*" in few  # the student's p is 0.02: 0.04 of two tests, 0.08 of four
    assert "-2.00 " in many


@pytest.mark.parametrize("width", [48, 60, 80, 100])
def test_a_methods_name_is_never_folded_columns_go_instead(width: int) -> None:
    name = "cat_kd(temperature=2)"
    runs = [*NINE, *(record(name, 71.0 + seed, seed, pair) for seed in range(3) for pair in PAIRS)]
    for part in (terminal.leaderboard, terminal.suite):
        text = printed(part(tables(runs), width), width)
        assert name in text
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_suites_aggregates_fit_the_terminal(width: int) -> None:
    text = printed(terminal.suite(tables(NINE), width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "the suite, 3 pairs" in text
    assert "3/0/0" in text


def test_one_pair_has_no_aggregates_to_show() -> None:
    assert terminal.suite(tables(THREE), 100) == []


def test_what_is_missing_is_said_in_the_terminal_once_for_all_methods_that_miss_it() -> None:
    records = [record("student", 70.0), record("kd", None), record("dkd", None)]
    assert "1 failed: it broke: dkd, kd" in printed(terminal.leaderboard(tables(records), 100), 100)


def test_a_terminal_scales_counts_as_the_page_does() -> None:
    large = [{**r, "cost": {**r["cost"], "deployed_parameters": 999_500}} for r in THREE]
    text = printed(terminal.leaderboard(tables(large), 200), 200)
    assert " 1M " in text
    assert "e+03" not in text


def test_a_teacher_that_is_no_better_than_the_student_is_said() -> None:
    text = printed(terminal.leaderboard(tables([record("student", 70.0, teacher=69.0)]), 160), 160)
    assert "The teacher is not clearly better than the plain student (lead -1.00 points)" in text


def test_p_values_are_those_of_the_paired_t_test_and_holms_family_is_the_board() -> None:
    table = leaderboard_table(NINE)
    for pair in (*PAIRS, "overall"):
        board = table[(table["pair"] == pair) & (table["method"] != "kd")]
        np.testing.assert_allclose(board["vs_kd_p_holm"], holm(board["vs_kd_p"]))
    ours, theirs = (
        np.array([r["result"]["top1"] for r in NINE if r["cell"]["method"]["name"] == m]).reshape(3, 3).mean(0)
        for m in ("crd", "kd")
    )  # [seeds]: the pairs have one student
    assert row(table, "crd", "overall")["vs_kd_p"] == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)


def test_a_row_has_calibration_fidelity_and_costs_and_none_that_some_run_lacks() -> None:
    records = [dict(r) for r in THREE]
    for seed, joules in enumerate((5.0, 7.0, 9.0)):
        records[seed]["cost"] = {**records[seed]["cost"], "joules_per_epoch": joules}
    records[3]["cost"] = {**records[3]["cost"], "joules_per_epoch": 5.0}
    student, kd = row(leaderboard_table(records), "student"), row(leaderboard_table(records), "kd")
    assert (student["ece"], student["nll"], student["top5"], student["agreement"]) == (4.0, 0.5, 99.0, 90.0)
    assert student["joules_per_epoch"] == 7.0
    assert math.isnan(kd["joules_per_epoch"])


def test_the_gap_closed_is_a_share_of_the_teachers_lead() -> None:
    table = leaderboard_table(NINE)
    student, kd = row(table, "student"), row(table, "kd")
    assert student["gap_closed"] == 0
    assert kd["gap_closed"] == pytest.approx(kd["vs_student"] / (80.0 - student["top1_mean"]))
    assert row(table, "kd", "overall")["gap_closed"] == pytest.approx(
        np.mean([row(table, "kd", pair)["gap_closed"] for pair in PAIRS])
    )
    records = [record("student", 70.0, teacher=69.0), record("kd", 72.0, teacher=69.0)]
    assert math.isnan(row(leaderboard_table(records), "kd")["gap_closed"])


def test_the_front_has_the_best_at_every_price() -> None:
    table = leaderboard_table(THREE)
    assert {m: row(table, m)["pareto"] for m in ("student", "kd", "dkd")} == {"student": True, "kd": True, "dkd": False}


def test_a_pair_that_a_method_never_saw_is_missing_and_leaves_no_overall_mean() -> None:
    table = leaderboard_table([record("student", 70.0), record("student", 71.0, pair="U -> S"), record("kd", 72.0)])
    assert row(table, "kd", "U -> S")["missing"] == 1
    assert row(table, "kd", "overall")["remark"] == "incomplete (1 missing)"


def test_no_overall_difference_is_taken_to_an_incomplete_baseline() -> None:
    overall = row(leaderboard_table(without(NINE, "kd", 1, "V -> S")), "crd", "overall")
    assert overall["rank"] == 1
    assert math.isnan(overall["vs_kd"])
    assert overall["vs_student_n"] == 9


def test_two_records_of_one_cell_are_refused() -> None:
    with pytest.raises(KDBenchError, match="'kd' ran twice on 'T -> S' with seed 0"):
        leaderboard_table([record("kd", 70.0), record("kd", 71.0)])


def test_the_wide_table_has_a_row_a_method_and_a_column_a_place() -> None:
    table = wide_table(NINE)
    assert table["method"].tolist() == ["crd", "kd", "dkd", "student"]
    assert table.columns[-3:].tolist() == ["d, T -> S", "d, U -> S", "d, V -> S"]
    crd, long = wide_row(table, "crd"), leaderboard_table(NINE)
    assert crd["d, U -> S"] == row(long, "crd", "U -> S")["top1_mean"]
    for column in ("rank", "top1_mean", "top1_std", "vs_kd", "vs_kd_p_holm", "gap_closed", "time_ratio_to_student"):
        assert crd[column] == row(long, "crd", "overall")[column]


def test_the_wide_tables_aggregates_are_those_of_the_runs() -> None:
    crd, kd = wide_row(wide_table(NINE), "crd"), wide_row(wide_table(NINE), "kd")
    values = [r["result"]["top1"] for r in NINE if r["cell"]["method"]["name"] == "crd"]
    assert crd["iqm"] == pytest.approx(stats.trim_mean(values, 0.25))
    assert crd["iqm_ci95_low"] <= crd["iqm"] <= crd["iqm_ci95_high"]
    assert (crd["mean_rank"], crd["borda"], kd["borda"]) == (1.0, 6.0, 3.0)  # student sees no teacher
    assert (crd["wins"], crd["ties"], crd["losses"]) == (3, 0, 0)
    assert crd["probability_of_improvement"] == 1.0
    assert crd["ari"] == pytest.approx(50, abs=5)
    assert kd[["wins", "ari", "vs_kd", "probability_of_improvement"]].isna().all()


def test_an_incomplete_method_has_no_aggregate_and_the_others_are_ranked_without_it() -> None:
    table = wide_table(without(NINE, "crd", 2, "U -> S"))
    crd = wide_row(table, "crd")
    assert (crd["n"], crd["failed"], crd["remark"]) == (8, 1, "incomplete (1 failed: it broke)")
    assert crd[["rank", "top1_mean", "mean_rank", "borda", "iqm", "vs_kd", "gap_closed"]].isna().all()
    assert crd["d, U -> S"] == pytest.approx(76.05, abs=0.06)
    assert (wide_row(table, "kd")["rank"], wide_row(table, "kd")["mean_rank"]) == (1, 1.0)


def test_equal_means_share_a_rank_whatever_the_order_of_their_runs() -> None:
    values = (70.1, 70.2, 70.4)
    records = [record(m, v, seed) for m, order in (("a", values), ("b", values[::-1])) for seed, v in enumerate(order)]
    assert wide_table(records)["mean_rank"].tolist() == [1.5, 1.5]


def test_common_ranks_over_the_pairs_that_all_methods_finished_and_says_so() -> None:
    records = [*without(NINE, "crd", 2, "U -> S"), record("broken", None, 0, "T -> S")]
    table, long = wide_table(records, common=True), leaderboard_table(records, common=True)
    crd = wide_row(table, "crd")
    assert (crd["rank"], crd["vs_kd_n"], crd["n"], crd["failed"]) == (1, 6, 6, 0)
    assert crd["remark"] == "1 failed: it broke; over 2 of 3 pairs"
    assert row(long, "crd", "overall")["top1_mean"] == crd["top1_mean"]
    assert row(long, "kd", "overall")["remark"] == "over 2 of 3 pairs"
    assert row(long, "crd", "U -> S")["failed"] == 1
    assert math.isnan(wide_row(table, "broken")["rank"])
    assert tables(records, common=True).note == (
        "Ranked over 2 of 3 pairs; left out: d, U -> S (not finished by crd)."
        " Not ranked, for nothing is finished: broken"
    )


def test_common_falls_back_to_seeds_where_no_pair_is_finished_by_all() -> None:
    records = without(THREE, "dkd", 1, "T -> S")
    assert wide_row(wide_table(records, common=True), "dkd")["vs_kd_n"] == 2
    assert tables(records, common=True).note == "Ranked over 2 of 3 seeds; left out: seed 1 (not finished by dkd)"
    assert tables(NINE, common=True).note == ""
    with pytest.raises(KDBenchError, match="no place and no seed is finished by all methods"):
        wide_table([record("a", 70.0, 0), record("b", 70.0, 1)], common=True)


def test_a_data_set_that_common_leaves_out_says_so() -> None:
    noise = {"label_noise": {"rate": 0.4}}
    records = [record("kd", 70.0), record("dkd", 71.0), record("kd", 60.0, protocol=noise)]
    table = leaderboard_table(records, common=True)
    noisy = table[(table["protocol"] != "clean") & (table["pair"] == "overall")]
    assert dict(zip(noisy["method"], noisy["remark"], strict=True)) == {
        "kd": "over 0 of 1 pairs",
        "dkd": "1 missing; over 0 of 1 pairs",
    }
    assert noisy["rank"].isna().all()


def test_a_suite_of_one_run_has_a_table() -> None:
    only = wide_row(wide_table([record("kd", 70.0)]), "kd")
    assert (only["rank"], only["top1_mean"], only["iqm"], only["borda"]) == (1, 70.0, 70.0, 0)
    assert only[["top1_std", "iqm_ci95_low", "vs_student", "vs_kd", "ari"]].isna().all()
    assert ranking([record("kd", 70.0)]) is None


def test_a_suite_in_which_nothing_is_done_has_a_table_of_what_is_missing() -> None:
    expected = [cell("student"), cell("kd")]
    assert wide_table([], expected)["missing"].tolist() == [1, 1]
    assert leaderboard_table([], expected)["rank"].isna().all()
    assert "1 missing: kd, student" in printed(terminal.leaderboard(tables([], expected), 100), 100)


def test_the_ranking_is_by_places_and_at_one_place_by_seeds() -> None:
    by_places, by_seeds = ranking(NINE), ranking(THREE)
    assert by_places is not None
    assert by_seeds is not None
    assert (by_places.methods, by_places.blocks) == (("crd", "kd", "dkd", "student"), 3)
    assert by_places.ranks == (1.0, 2.0, 3.0, 4.0)
    assert by_seeds.blocks == 3


def test_a_comparison_over_several_pairs_corrects_their_p_values() -> None:
    result = compare(NINE, "crd", "kd")
    assert math.isnan(result.holm[0])
    np.testing.assert_allclose(result.holm[1:], holm([d.p for _, d in result.rows[1:]]))
    console = Console(file=io.StringIO(), width=100)
    terminal_comparison.comparison(console, result)
    terminal_comparison.comparison(console, compare(THREE, "dkd", "kd"))
    assert console.file.getvalue().count("p (Holm)") == 2  # type: ignore[attr-defined]  # a column and a note, once


def test_the_seeds_to_tell_two_methods_apart_follow_from_their_paired_differences() -> None:
    result = plan(THREE, "dkd", "kd")
    (need,) = result.rows
    assert (need.difference, need.std, need.seeds) == (pytest.approx(-1 / 3), pytest.approx(0.763763), 3)
    assert need.needed == seeds_needed(-1 / 3, need.std)
    assert result.sentence.startswith(
        f"to tell dkd and kd apart by 0.33 points at d, T -> S takes {need.needed:.0f} seeds"
    )
    assert plan(THREE, "dkd", "kd", delta=2.0).rows[0].needed < need.needed


def test_over_several_pairs_a_seed_is_its_mean_difference() -> None:
    first = plan(NINE, "crd", "kd").rows[0]
    values = np.array([r["result"]["top1"] for r in NINE]).reshape(3, 4, 3)  # [pairs, methods, seeds]
    differences = (values[:, 2] - values[:, 1]).mean(0)
    assert (first.place, first.seeds, first.difference) == ("overall", 3, pytest.approx(np.mean(differences)))
    assert first.std == pytest.approx(np.std(differences, ddof=1), abs=1e-9)


def test_a_plan_from_one_seed_or_no_difference_says_what_to_do() -> None:
    assert plan([record("a", 70.0), record("b", 71.0)], "a", "b").sentence.endswith("or assume one with --sd")
    same = [record(m, 70.0, seed) for m in "ab" for seed in (0, 1)]
    assert (
        plan(same, "a", "b").sentence
        == "a and b show no difference at d, T -> S: give the one you want to see with --delta"
    )
    console = Console(file=io.StringIO(), width=100)
    terminal_comparison.power(console, plan(same, "a", "b"))
    assert "seeds needed" in console.file.getvalue()  # type: ignore[attr-defined]


def test_power_wants_two_methods() -> None:
    result = CliRunner().invoke(app, ["power", "digits", "--methods", "crd(negatives=1, seed=2)"])
    assert "names 1 methods: give the two to tell apart" in str(result.exception)

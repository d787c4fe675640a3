"""Tables and comparisons from synthetic records: what is counted, paired, ranked, and left empty."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from kdbench.board import terminal
from kdbench.board.compare import compare
from kdbench.board.runs import protocol_text, runs_table
from kdbench.board.statistics import paired, summary
from kdbench.board.tables import leaderboard_table, write_csv
from kdbench.errors import KDBenchError


def record(method: str, top1: float | None, seed: int = 0, pair: str = "T -> S", **changes: Any) -> dict[str, Any]:
    done = top1 is not None
    result = {"top1": top1, "top5": 99.0, "nll": 0.5, "best_top1": (top1 or 0) + 1, "best_epoch": 3}
    return {
        "schema": 1,
        "id": f"{method}{seed}{pair}",
        "suite": "s",
        "status": "done" if done else "failed",
        "reason": "" if done else "it broke",
        "cell": {
            "dataset": "d",
            "protocol": changes.pop("protocol", {}),
            "pair": pair,
            "teachers": [{"network": "T", "seed": 0}],
            "student": "S",
            "method": {"name": method, "label": method, "family": "logits", "hyperparameters": {}, "source": ""},
            "seed": seed,
        },
        "result": {**result, "agreement": 90.0, "kl_to_teacher": 0.1, "extra": changes.pop("extra", {})}
        if done
        else {},
        "teachers": [{"network": "T", "seed": 0, "top1": 80.0}],
        "cost": {
            "seconds_per_epoch": changes.pop("seconds", 2.0),
            "own_seconds_per_epoch": 1.0,
            "peak_memory_mb": 5.0,
            "extra_parameters": 0,
            "student_parameters": 10,
            "deployed_parameters": 10,
            "deployed_macs": 100,
        },
        "provenance": {"numerics": {"device": "cpu", "precision": "fp32", "compile": False}, "finished_at": "2026"},
        **changes,
    }


def cell(method: str, seed: int = 0, pair: str = "T -> S") -> dict[str, Any]:
    return {
        "suite": "s",
        "dataset": "d",
        "protocol": {},
        "pair": pair,
        "student": "S",
        "label": method,
        "name": method,
        "family": "logits",
        "seed": seed,
    }


THREE = [
    *(record("student", value, seed) for seed, value in enumerate((70.0, 71.0, 72.0))),
    *(record("kd", value, seed, seconds=3.0) for seed, value in enumerate((72.0, 72.5, 74.5))),
    *(record("dkd", value, seed, seconds=4.0) for seed, value in enumerate((71.0, 73.0, 74.0))),
]


def row(frame: pd.DataFrame, method: str, pair: str = "T -> S") -> pd.Series:
    return frame[(frame["method"] == method) & (frame["pair"] == pair)].iloc[0]


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


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (1.5, 0.0)])
def test_equal_differences_are_no_division_by_zero(shift: float, p: float) -> None:
    assert paired([1.0 + shift, 2.0 + shift], [1.0, 2.0]).p == p


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
    shuffled = THREE.copy()
    random.Random(1).shuffle(shuffled)
    for name, records in (("a", THREE), ("b", shuffled)):
        write_csv(leaderboard_table(records), tmp_path / f"{name}.csv")
        write_csv(runs_table(records), tmp_path / f"{name}_runs.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a_runs.csv").read_bytes() == (tmp_path / "b_runs.csv").read_bytes()


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
    assert verdict.startswith("kd is better than student by 2.00 points (95 % CI +0.76 to +3.24, p = 0.02")
    assert compare(THREE, "student", "kd").verdict.startswith("student is worse than kd")


def test_an_unclear_difference_is_called_unclear() -> None:
    assert compare(THREE, "dkd", "kd").verdict.startswith("cannot tell dkd and kd apart: -0.33 points")


def test_one_seed_is_too_few_to_tell() -> None:
    assert compare([record("a", 70.0), record("b", 60.0)], "a", "b").verdict.startswith("too few paired runs")


def test_comparing_with_a_method_that_has_no_run_names_the_nearest() -> None:
    with pytest.raises(KDBenchError, match="did you mean 'dkd'"):
        compare(THREE, "dkdd", "kd")


def test_comparing_runs_of_different_seeds_is_refused() -> None:
    with pytest.raises(KDBenchError, match="no finished run of the same pair and seed"):
        compare([record("a", 70.0, 0), record("b", 70.0, 1)], "a", "b")


@pytest.mark.parametrize("width", [80, 160])
def test_the_leaderboard_fits_the_terminal_and_shows_the_essentials(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    for table in terminal.leaderboard(leaderboard_table(THREE), width):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert "73.00 ± 1.32" in text
    assert "+2.00 [+0.76, +3.24]" in text
    assert ("MACs" in text) == (width == 160)


def test_what_is_missing_is_said_in_the_terminal() -> None:
    records = [record("student", 70.0), record("kd", None)]
    console = Console(file=io.StringIO(), width=160)
    for table in terminal.leaderboard(leaderboard_table(records), 160):
        console.print(table)
    assert "1 failed: it broke" in console.file.getvalue()  # type: ignore[attr-defined]

"""Methods are compared over runs that saw the same teacher; where they did not, the row says so and shows no number."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.board.comparable import differ
from kdbench.board.compare import compare
from kdbench.board.results import Tables
from kdbench.errors import KDBenchError

SCORES = {"student": 70.0, "kd": 72.0, "at": 74.0}


def record(method: str, seed: int, pair: str = "T -> S", **teacher: Any) -> dict[str, Any]:
    first = {"network": "T", "seed": 0, "weights": "abc", "sha256": "1" * 64, "top1": 80.0, **teacher}
    top1 = SCORES[method] + seed
    return {
        "id": f"{method}{seed}{pair}",
        "suite": "s",
        "status": "done",
        "reason": "",
        "cell": {
            "task": "image", "dataset": "d", "protocol": {}, "pair": pair, "student": "S",
            "teachers": [{"network": "T", "seed": 0}],
            "method": {"name": method, "label": method, "family": "logits", "hyperparameters": {}, "source": ""},
            "seed": seed,
        },
        "result": {"top1": top1, "best_top1": top1, "best_epoch": 3, "extra": {}},
        "teachers": [{k: v for k, v in first.items() if v is not None}],
        "cost": {"seconds_per_epoch": 1.0},
        "provenance": {"numerics": {"device": "cpu", "precision": "fp32", "compile": False}, "finished_at": "2026"},
    }  # fmt: skip


def row(records: list[dict[str, Any]], method: str = "at", pair: str = "T -> S") -> dict[str, Any]:
    frame = Tables(records).long
    return frame[(frame["method"] == method) & (frame["pair"] == pair)].iloc[0].to_dict()


def three(**at: Any) -> list[dict[str, Any]]:
    """Three methods with two seeds, of which `at` saw another teacher with seed 1."""
    return [record(m, seed, **(at if (m, seed) == ("at", 1) else {})) for m in SCORES for seed in (0, 1)]


def test_runs_that_saw_one_teacher_are_compared() -> None:
    found = row(three())
    assert (found["vs_kd"], found["vs_student"], found["remark"]) == (2.0, 4.0, "")


def test_a_row_with_a_seed_that_saw_other_weights_is_not_compared_and_says_why() -> None:
    for found in (row(three(sha256="2" * 64)), row(three(sha256="2" * 64), pair="overall")):
        assert found["top1_mean"] == 74.5
        assert [found[name] != found[name] for name in ("vs_kd", "vs_student", "vs_kd_p", "gap_closed")] == [True] * 4
        both = "seed 1 saw other teacher weights"
        assert found["remark"] == f"not compared with student: {both}; not compared with kd: {both}"


def test_the_others_are_compared_as_before() -> None:
    assert row(three(sha256="2" * 64), "kd")["vs_student"] == 2.0


def test_the_row_of_all_pairs_has_no_aggregate_against_other_teachers() -> None:
    records = [*three(sha256="2" * 64), *(record(m, s, "U -> S") for m in SCORES for s in (0, 1))]
    wide = Tables(records).wide.set_index("method").loc["at"]
    assert wide[["vs_kd", "wins", "probability_of_improvement", "ari"]].isna().all()
    assert wide["top1_mean"] == 74.5
    assert "not compared with kd: seed 1 saw" in wide["remark"]
    assert row(records, pair="U -> S")["vs_kd"] == 2.0


def test_compare_takes_the_runs_that_saw_one_teacher() -> None:
    assert compare(three(), "at", "kd").rows[0][1].n == 2
    assert compare(three(sha256="2" * 64), "at", "kd").rows[0][1].n == 1


def test_compare_refuses_methods_that_never_saw_one_teacher() -> None:
    records = [record(m, seed, sha256=str(len(m)) * 64) for m in ("at", "student") for seed in (0, 1)]
    with pytest.raises(KDBenchError, match="'at' and 'student' saw different weights of the teacher with every seed"):
        compare(records, "at", "student")


@pytest.mark.parametrize(
    ("a", "b", "other"),
    [
        (("1", "abc"), ("1", "xyz"), False),  # the same content, wherever it was trained
        (("1", "abc"), ("2", "abc"), True),
        ((None, "abc"), ("2", "abc"), False),  # an older record says only which training
        ((None, "abc"), ("2", "xyz"), True),
        ((None, None), ("2", "xyz"), False),  # nothing is known
        (float("nan"), ("2", "xyz"), False),  # no run
    ],
)
def test_weights_are_told_apart_by_content_else_by_training(a: Any, b: Any, other: bool) -> None:
    assert differ(a, b) is other


def test_only_the_teacher_that_all_methods_of_a_pair_share_counts() -> None:
    records = three()
    records[-1]["teachers"].append({"network": "U", "seed": 1, "weights": "uvw", "sha256": "9" * 64, "top1": 1.0})
    assert row(records)["vs_kd"] == 2.0

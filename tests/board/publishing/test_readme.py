"""A published README tells of all pairs together only where every method stands on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from support.page_records import PAIRS, grid, synthetic

from kdbench.board.publishing.readme import readme
from kdbench.board.results import Tables

CARD: dict[str, Any] = {
    "suite": {
        **{"name": "s", "description": "", "seeds": [0, 1, 2], "pairs": [], "recipe": {}, "teacher_recipe": {}},
        **{"student_recipes": {}, "teacher_recipes": {}, "methods": []},
        "datasets": [{"name": "cifar10", "task": "image", "protocol": {}}],
    },
    "counts": {"done": 15},
    **{key: [] for key in ("hardware", "numerics", "versions", "engines", "git", "left_out")},
    "dates": {"first": "2026-01-01", "last": "2026-01-02"},
}
APART = "Pairs have other methods, so each pair is told of by itself."


def summary(records: list[dict[str, Any]], plan: Sequence[dict[str, Any]] = ()) -> str:
    page = readme(CARD, Tables(records, plan), []).replace("\\", "")
    return page.partition("- Runs: ")[2].partition("\n\n")[0]


def test_methods_that_stand_on_all_pairs_are_told_of_together() -> None:
    told = summary(synthetic(["student", "kd", "dkd", "dist"], gaps=False))
    assert APART not in told
    assert "**Above kd** (over all 2 pairs" in told
    assert f"on cifar10, {PAIRS[0]}" not in told


def test_where_a_pair_has_methods_of_its_own_each_pair_is_told_of_by_itself() -> None:
    records = synthetic(["student", "kd", "dkd", "dist"], gaps=False)
    plan = [row for row in grid(["student", "kd", "dkd", "dist"]) if row["label"] != "dist" or row["pair"] == PAIRS[0]]
    ran = [r for r in records if r["cell"]["method"]["label"] != "dist" or r["cell"]["pair"] == PAIRS[0]]
    told = summary(ran, plan)
    assert APART in told
    assert "over all 2 pairs" not in told
    for pair in PAIRS:
        assert f"**Above kd** (on cifar10, {pair}" in told
        assert f"**Best with one teacher** on cifar10, {pair}" in told


def test_a_single_seed_is_never_the_best_beside_methods_of_three() -> None:
    records = synthetic(["student", "kd", "dkd"], gaps=False)
    here = [record for record in records if record["cell"]["pair"] == PAIRS[0]]
    best, few = f"**Best with one teacher** on cifar10, {PAIRS[0]}: ", "fewer than 3 seeds do not count"
    told = summary(here)
    first = told.partition(best)[2].split()[0]
    assert first in ("kd", "dkd")
    assert few not in told
    own = [record for record in here if record["cell"]["method"]["label"] == first]
    highest = max(own, key=lambda record: record["result"]["top1"])
    alone = [record for record in here if record not in own or record is highest]
    told = summary(alone)
    line = told.partition(best)[2].partition("\n")[0]
    assert few in line
    assert line.split()[0] != first
    single = [record for record in here if record["cell"]["seed"] == 0]
    assert best in summary(single)
    assert few not in summary(single)


def test_where_kd_failed_on_a_pair_each_pair_is_told_of_by_itself() -> None:
    records = synthetic(["student", "kd", "dkd"], gaps=False)
    told = summary([r for r in records if r["cell"]["method"]["label"] != "kd" or r["cell"]["pair"] == PAIRS[0]])
    assert "No method can be compared with kd over all pairs" in told
    assert f"**Above kd** (on cifar10, {PAIRS[0]}" in told


def test_without_kd_nothing_is_compared() -> None:
    told = summary([r for r in synthetic(["student", "dkd"], gaps=False) if r["cell"]["method"]["label"] != "kd"])
    assert "Nothing can be compared with kd here" in told
    assert APART not in told


def test_a_pair_on_which_nothing_has_finished_is_a_sentence_and_no_table() -> None:
    records = synthetic(["student", "kd", "dkd"], gaps=False)
    ran = [record for record in records if record["cell"]["pair"] == PAIRS[0]]
    page = readme(CARD, Tables(ran, grid(["student", "kd", "dkd"])), []).replace("\\", "")
    assert f"No method has finished on cifar10, {PAIRS[1]}." in page
    assert "No method has finished over all 2 pairs." in page
    assert page.count("### ") == 1

"""How a board's order of methods agrees with that of the papers' tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.board_records import printed, record, tables
from typer.testing import CliRunner

from kdbench.board import terminal_agreement
from kdbench.board.agreement import EVERY, FEWEST, agreements, effects, gains, linked, table
from kdbench.papers.reported import Reported

METHODS = ("kd", "at", "fitnet", "pkt", "sp", "rkd")


def board(order: tuple[str, ...] = METHODS) -> Any:
    """The first of `order` is the best, a point above the next; the plain student is below all."""
    worth = {"student": 0, **{method: len(order) - place for place, method in enumerate(order)}}
    return tables([record(m, 80.0 + value + 0.1 * seed, seed) for m, value in worth.items() for seed in range(3)]).grid


def row(method: str, value: float, pair: int = 0, **changes: Any) -> Reported:
    fields: dict[str, Any] = {
        **{"paper": "CRD (ICLR 2020)", "source": "README", "dataset": "cifar100", "teacher": f"t{pair}"},
        **{"student": f"s{pair}", "std": None, "n": None, "selection": "last", "recipe": "crd-240", "note": ""},
    }
    return Reported(method=method, value=value, **{**fields, **changes})


def reported(order: tuple[str, ...] = METHODS, **changes: Any) -> list[Reported]:
    return [row(m, 70.0 - place + 5 * pair, pair, **changes) for place, m in enumerate(order) for pair in range(3)]


def test_equal_orders_agree_wholly_and_turned_ones_not_at_all() -> None:
    same = agreements(board(), reported())
    assert [(a.paper, a.rank, a.pairs) for a in same] == [(EVERY, 1, 3), ("CRD (ICLR 2020)", 1, 3)]
    assert same[0].shared == METHODS
    assert same[0].p == pytest.approx(2 / math.factorial(len(METHODS)))  # this order and its mirror image, of all
    assert agreements(board(), reported(METHODS[::-1]))[0].rank == -1


def test_a_method_that_has_no_value_for_an_easy_pair_is_not_the_worse_for_it() -> None:
    rows = [one for one in reported() if not (one.method == "kd" and one.student == "s2")]
    assert [a.rank for a in agreements(board(), rows)] == [1, 1]
    effect = effects(rows)
    assert effect["kd"] - effect["at"] == pytest.approx(1)


def test_methods_that_no_table_compares_with_the_others_are_left_out() -> None:
    alone = [row("nst", 99.0, 7, paper="NST (2017)"), row("cc", 1.0, 7, paper="NST (2017)")]
    grid = board((*METHODS, "nst", "cc"))
    assert {one.method for one in linked([*reported(), *alone])} == set(METHODS)
    every = next(a for a in agreements(grid, [*reported(), *alone]) if a.paper == EVERY)
    assert (every.shared, every.rank) == (METHODS, 1)
    joined = [*reported(), *alone, row("rkd", 50.0, 7, paper="NST (2017)")]
    assert {one.method for one in linked(joined)} == {*METHODS, "nst", "cc"}
    assert linked([]) == []


def test_the_pairs_of_a_table_are_held_against_each_other() -> None:
    assert agreements(board(), reported())[0].between_pairs == pytest.approx(1)
    one_pair = [one for one in reported() if one.student == "s0"]
    assert math.isnan(agreements(board(), one_pair)[0].between_pairs)
    turned = [row(m, -one.value, 1) if one.student == "s1" else one for one in reported() for m in [one.method]]
    assert agreements(board(), turned)[0].between_pairs < 0


def test_teachers_students_drafts_other_tasks_other_scores_and_compositions_are_no_shared_methods() -> None:
    others = [row("teacher", 99), row("student", 1), row("kd+at", 99), row("nobody", 99)]
    aside = reported(METHODS[::-1], paper="CRD, a rerun (2021)")
    texts = reported(METHODS[::-1], task="text", metric="score")
    fifth = reported(METHODS[::-1], metric="top5")
    found = agreements(board(), [*reported(), *others, *aside, *texts, *fifth])
    assert [(a.paper, a.rank) for a in found] == [(EVERY, 1), ("CRD (ICLR 2020)", 1)]


def test_of_a_method_with_several_settings_the_row_without_any_counts_and_a_single_row_always() -> None:
    rows = [one for one in reported() if one.method != "at"] + [
        *(row("kd(temperature=2)", 0, pair) for pair in range(3)),
        *(row("at(weight=3)", 69.0 + 5 * pair, pair) for pair in range(3)),
    ]
    assert agreements(board(), rows)[0].shared == METHODS
    assert agreements(board(), rows)[0].rank == 1


def test_too_few_shared_methods_say_nothing() -> None:
    assert agreements(board(), reported(METHODS[: FEWEST - 1])) == []
    assert agreements(tables([record("kd", 80.0)]).grid, reported()) == []  # no plain student to gain over
    assert "shares 5 methods" in printed(list(terminal_agreement.tables([])), 100)


def test_tuned_rows_are_a_place_of_their_own() -> None:
    def chosen(method: str, top1: float) -> dict[str, Any]:
        own = record(f"{method} (tuned, 16 trials)", top1)
        own["cell"]["method"] |= {"name": method, "tuning": {"trials": [{"seconds": 1.0}] * 16}}
        return own

    worth = dict(zip(METHODS, range(6), strict=True))
    default = [record("student", 80.0), *(record(m, 86.0 - value) for m, value in worth.items())]
    tuned = [chosen("student", 80.0), *(chosen(m, 81.0 + value) for m, value in worth.items())]
    grid = tables([*default, *tuned]).grid
    assert gains(grid, tuned=True)["rkd"] == pytest.approx(6)
    found = agreements(grid, reported())
    assert [(a.tuned, a.paper, a.rank) for a in found] == [
        *((False, EVERY, 1), (False, "CRD (ICLR 2020)", 1)),
        *((True, EVERY, -1), (True, "CRD (ICLR 2020)", -1)),
    ]


def test_a_csv_and_a_terminal_have_every_table() -> None:
    found = agreements(board(), reported())
    made = table(found)
    assert made[["settings", "paper", "methods", "pairs", "rank_correlation"]].iloc[1].tolist() == [
        *("default", "CRD (ICLR 2020)", 6, 3, 1.0)
    ]
    assert made["shared"][0] == "kd > at > fitnet > pkt > sp > rkd"
    text = printed(list(terminal_agreement.tables(found)), 100)
    assert "+1.00" in text
    assert "all tables" in text


def test_the_command_reads_the_tables_that_come_with_kdbench(tmp_path: Any) -> None:
    from kdbench.commands.cli import app

    result = CliRunner().invoke(app, ["agreement", "digits", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "shares 5 methods" in " ".join(result.output.split())
    assert (tmp_path / "digits" / "agreement.csv").is_file()

"""The leaderboard's columns: rows of `leaderboard_table` in, cells with text, order and marks out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbench.board.grid import STATES
from kdbench.board.numbers import (
    TIMES,
    aligned,
    capital,
    decimals,
    fixed,
    in_unit,
    interval,
    known,
    probability,
    scaled,
    with_unit,
)
from kdbench.board.statistics.intervals import SURE
from kdbench.tasks.metrics import Metric, Metrics

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what stands in it, aligned with the cells above and below.
        aside: what stands smaller beside it: `± 0.15`, or an interval.
        order: what the column is sorted by; None is last either way.
        mark: `"better"` or `"worse"` where a difference is one after Holm's correction.
        whisker: low, mean and high of an interval and the place of zero, in % of the column's axis.
        hint: more, for whoever points at it.
    """

    text: str = ""
    aside: str = ""
    order: float | str | None = None
    mark: str = ""
    whisker: tuple[float, float, float, float] | None = None
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """One column of the leaderboard.

    Attributes:
        key: its name in the page.
        title: its header.
        group: the header above several columns.
        hint: what it says, in plain words.
        cells: makes its cells of all rows at once, so that they align.
        best_first: `"descending"` or `"ascending"`: how a first click sorts.
        pooled: whether it says something of all pairs together.
    """

    key: str
    title: str
    group: str
    hint: str
    cells: Callable[[Sequence[Row]], list[Cell]]
    best_first: str = "descending"
    pooled: bool = True


def rounded(row: Row, score: Metric) -> tuple[str, str]:
    """A row's mean score and its spread as text, rounded to the spread: `79.65` and `± 0.15`, or nothing."""
    mean, std = row["score_mean"], row["score_std"]
    digits = decimals(std, score.decimals)
    return fixed(mean, digits) if known(mean) else "", f"± {fixed(std, digits)}" if known(std) else ""


def _score(score: Metric) -> Callable[[Sequence[Row]], list[Cell]]:
    def cells(rows: Sequence[Row]) -> list[Cell]:
        texts, asides = zip(*(rounded(row, score) for row in rows), strict=True) if rows else ((), ())
        return [
            Cell(text, aside, _order(row["score_mean"]), hint=_score_hint(row, score))
            for row, text, aside in zip(rows, aligned(texts), asides, strict=True)
        ]

    return cells


def _score_hint(row: Row, score: Metric) -> str:
    if not known(row["ci95_low"]):
        return ""
    keys = ("score_mean", "ci95_low", "ci95_high", "best_score_mean")
    mean, low, high, best = (fixed(row[key], score.decimals) if known(row[key]) else "" for key in keys)
    return f"{mean}, 95 % interval {low} to {high}" + (f"; best epoch {best} (never ranked)" if best else "")


def _counts(rows: Sequence[Row]) -> list[Cell]:
    cells = []
    for row in rows:
        planned = row["n"] + sum(row[state] for state in STATES)
        aside = f"of {planned}" if planned > row["n"] else ""
        cells.append(Cell(str(row["n"]), aside, row["n"], hint=str(row.get("remark") or "")))
    return cells


def differences(baseline: str, score: Metric) -> Callable[[Sequence[Row]], list[Cell]]:
    """The column of paired differences to a baseline, as measured."""
    name = f"vs_{baseline}"

    def cells(rows: Sequence[Row]) -> list[Cell]:
        ends: list[tuple[Any, Any]] = [(row.get(f"{name}_ci95_low"), row.get(f"{name}_ci95_high")) for row in rows]
        widths = [(high - low) / 2 if known(low) and known(high) else math.nan for low, high in ends]
        digits = [decimals(width, score.decimals) for width in widths]
        means: list[Any] = [row.get(name) for row in rows]
        texts = [fixed(mean, d, True) if known(mean) else "" for mean, d in zip(means, digits, strict=True)]
        place = _axis(score.sign, [*ends, *((mean, mean) for mean in means)])
        return [
            Cell(
                text,
                interval(low, high, d) if known(low) and known(high) else "",
                _order(mean),
                mark_of(row, baseline, score),
                (place(low), place(mean), place(high), place(0.0)) if known(low) and known(high) else None,
                difference_hint(row, baseline, score),
            )
            for row, mean, text, (low, high), d in zip(rows, means, aligned(texts), ends, digits, strict=True)
        ]

    return cells


def mark_of(row: Row, baseline: str, score: Metric) -> str:
    """Whether a row is better or worse than a baseline after Holm's correction; nothing if it cannot be told."""
    p = row.get(f"vs_{baseline}_p_holm")
    if not known(p) or p >= SURE:
        return ""
    return "better" if score.gain(row[f"vs_{baseline}"], over=0.0) > 0 else "worse"


def difference_hint(row: Row, baseline: str, score: Metric) -> str:
    """`+2.32 points to kd, 95 % interval +1.06 to +3.58, p = 0.016, after Holm 0.13, 3 paired runs`."""
    mean, low, high = (row.get(f"vs_{baseline}{part}") for part in ("", "_ci95_low", "_ci95_high"))
    if not known(mean):
        return ""
    digits = score.decimals
    parts = [f"{with_unit(fixed(mean, digits, True), score.points)} to {baseline}"]
    if known(low) and known(high):
        parts.append(f"95 % interval {fixed(low, digits, True)} to {fixed(high, digits, True)}")
    for part, word in (("_p", "p"), ("_p_holm", "after Holm's correction p")):
        p = row.get(f"vs_{baseline}{part}")
        if known(p):
            parts.append(f"{word} {'' if p < 1e-4 else '= '}{probability(p)}")
    return ", ".join([*parts, f"{row[f'vs_{baseline}_n']:.0f} paired runs"])


def _axis(sign: int, ends: Sequence[tuple[Any, Any]]) -> Callable[[float], float]:
    """Where a difference stands on the column's axis, in %, the better to the right; what is far worse must not press
    the others together. `sign` is -1 where lower is better.
    """
    values = sign * np.array([value for pair in ends for value in pair if known(value)] or [0.0])
    high = max(float(values.max()), 0.0)
    low = min(max(float(values.min()), -2 * max(high, float(np.median(np.abs(values))))), 0.0)
    span = (high - low) or 1.0
    return lambda value: round(5 + 90 * min(max((sign * value - low) / span, 0.0), 1.0), 2)


def _plain(key: str, digits: int, times: float = 1.0, unit: str = "") -> Callable[[Sequence[Row]], list[Cell]]:
    def cells(rows: Sequence[Row]) -> list[Cell]:
        values = [row.get(key) for row in rows]
        texts = [fixed(value * times, digits) if known(value) else "" for value in values]
        return [
            Cell(text + unit * bool(text), order=_order(value))
            for text, value in zip(aligned(texts), values, strict=True)
        ]

    return cells


def _count(key: str) -> Callable[[Sequence[Row]], list[Cell]]:
    def cells(rows: Sequence[Row]) -> list[Cell]:
        values = [row.get(key) for row in rows]
        return [Cell(scaled(value), order=value, hint=f"{value:,.0f}") if known(value) else Cell() for value in values]

    return cells


def _reported(score: Metric) -> Callable[[Sequence[Row]], list[Cell]]:
    """What papers report for this method on this pair; `reported` is put into the rows by `data`."""

    def cells(rows: Sequence[Row]) -> list[Cell]:
        found = [row.get("reported") or [] for row in rows]
        texts = aligned([fixed(values[0].value, score.decimals) if values else "" for values in found])
        return [
            Cell(
                text,
                f"± {values[0].std:g}" if values and values[0].std is not None else "",
                values[0].value if values else None,
                hint="; ".join(f"{v.value:g} in {v.paper} ({v.selection} epoch, {v.recipe})" for v in values[:4]),
            )
            for text, values in zip(texts, found, strict=True)
        ]

    return cells


def _rank(rows: Sequence[Row]) -> list[Cell]:
    return [Cell(f"{row['rank']:.0f}", order=_order(row["rank"])) if known(row.get("rank")) else Cell() for row in rows]


def _teachers(rows: Sequence[Row]) -> list[Cell]:
    return [Cell(f"{row['teachers']:.0f}", order=_order(row["teachers"])) for row in rows]


def _family(rows: Sequence[Row]) -> list[Cell]:
    return [Cell(str(row["family"]).replace("_", " "), order=str(row["family"])) for row in rows]


def _order(value: Any) -> float | None:
    return value if known(value) else None


def columns(metrics: Metrics) -> tuple[Column, ...]:
    """The columns of a leaderboard of a task with these metrics."""
    score = metrics.primary
    first, unit = _best_first(score), capital(f"difference{in_unit(score.points)}")
    return (
        Column("rank", "#", "", f"Rank by mean {score.title} among those that see as many teachers; equals share it",
               _rank, "ascending"),
        Column("family", "family", "", "What the method works on", _family, "ascending"),
        Column("teachers", "teachers", "", "Teachers that the method sees; ranks are among those that see as many",
               _teachers, "ascending"),
        Column("score", score.heading, "Score", _described(score), _score(score), first),
        Column("n", "runs", "Score", "Finished runs", _counts),
        *(
            Column(f"vs_{baseline}", f"to {baseline}", unit, hint, differences(baseline, score), first)
            for baseline, hint in (
                ("student", "To no distillation, paired by seed: mean and 95 % interval"),
                ("kd", "To Hinton's distillation, paired by seed: mean and 95 % interval"),
            )
        ),
        Column("time", "time", "Cost of training", "Time of a step beside a plain student's; median of runs",
               _plain("time_ratio_to_student", 2, unit=f"\u202f{TIMES}"), "ascending"),
        Column("extra", "extra params", "Cost of training", "Parameters trained beside the student",
               _count("extra_parameters"), "ascending"),
        Column("memory", "memory", "Cost of training", "Peak memory, MB", _plain("peak_memory_mb", 0), "ascending"),
        Column("gap", "gap closed", "Behaviour", "Share of the way from the student to its teacher",
               _plain("gap_closed", 0, 100, "\u202f%")),
        *(_other(metric) for metric in metrics.shown),
        Column("reported", "reported", "Papers", "What a paper reports for this pair, under its own recipe",
               _reported(score), first, pooled=False),
    )  # fmt: skip


def _other(metric: Metric) -> Column:
    """The column of another score than the primary one."""
    cells = _plain(metric.name, max(metric.decimals - 1, 0), unit=f"\u202f{metric.unit}" if metric.unit else "")
    return Column(
        f"score-{metric.name}", metric.title, "Behaviour", capital(metric.meaning), cells, _best_first(metric)
    )


def _described(score: Metric) -> str:
    return f"Test {score.title} after the last epoch: mean ± sample std{'; lower is better' * (score.sign < 0)}"


def _best_first(metric: Metric) -> str:
    return "ascending" if metric.sign < 0 else "descending"


def table(rows: Sequence[Row], metrics: Metrics) -> dict[str, list[Cell]]:
    """All columns' cells, by key; a column without any content is left out."""
    made = {column.key: column.cells(rows) for column in columns(metrics)}
    return {key: cells for key, cells in made.items() if any(cell.text for cell in cells)}


def resolution(rows: Sequence[Row], baseline: str) -> float:
    """Half the width of the middle 95 % interval of the differences to a baseline: what these runs can resolve."""
    widths = [(row[f"vs_{baseline}_ci95_high"] - row[f"vs_{baseline}_ci95_low"]) / 2 for row in rows]
    widths = [width for width in widths if known(width)]
    return float(np.median(widths)) if widths else math.nan

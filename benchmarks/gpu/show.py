"""The tables of a command: in the terminal, as a text file, and as the rows of docs/gpu.md."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.sheet import Part, Row, Sheet

WIDTH = 200  # of the text file


def cell(value: Any) -> str:
    """Ticks for yes and no, three digits for a number, a dash for what nobody knows."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def table(rows: Sequence[Row]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    found = Table()
    for column in columns:
        number = any(isinstance(row.get(column), float | int) and row[column] is not True for row in rows)
        found.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        found.add_row(*(cell(row.get(column)) for column in columns))
    return found


def summary(sheet: Sheet, parts: Sequence[Part]) -> Table:
    """One row a part: what is there, what failed, and how many of its questions have the answer yes."""
    found = Table()
    for column in ("part", "rows", "s", "yes", "no", "errors"):
        found.add_column(column, justify="left" if column == "part" else "right")
    for part in parts:
        steps = sheet.parts.get(part.name, {}).values()
        answers = [v for row in sheet.rows(part.name) for v in row.values() if isinstance(v, bool)]
        seconds = sum(step.get("seconds", 0.0) for step in steps)
        errors = sum("error" in step for step in steps)
        counts = (len(sheet.rows(part.name)), f"{seconds:.0f}", sum(answers), len(answers) - sum(answers), errors)
        found.add_row(part.name, *map(str, counts))
    return found


def write(console: Console, sheet: Sheet, parts: Sequence[Part], left: Sequence[str]) -> None:
    """Everything that is known, and last one table of all parts."""
    facts = ", ".join(f"{key} {value}" for key, value in sheet.machine.items())
    console.print(facts, markup=False, highlight=False)
    for part in parts:
        if rows := sheet.rows(part.name):
            console.print(part.title, style="bold", markup=False, highlight=False)
            console.print(table(rows))
        for key, step in sheet.parts.get(part.name, {}).items():
            if "error" in step:
                console.print(f"{part.name} {key}: {step['error']}", markup=False, highlight=False)
    if left:
        console.print(f"no time for {len(left)} steps, {left[0]!r} first: the same command goes on", markup=False)
    console.print(f"benchmarks.gpu {sheet.command}", style="bold", highlight=False)
    console.print(summary(sheet, parts))


def text(sheet: Sheet, parts: Sequence[Part], left: Sequence[str]) -> str:
    """The same as plain text."""
    kept = io.StringIO()
    write(Console(file=kept, width=WIDTH), sheet, parts, left)
    return kept.getvalue()

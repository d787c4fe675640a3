"""What `compare` and `power` print."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench.board.compare import Comparison
from kdbench.board.grid import Grid
from kdbench.board.numbers import in_unit, known, plain, probability
from kdbench.board.power import Plan
from kdbench.board.reach import Reach, baseline_of, sentence
from kdbench.board.statistics.power import MOST


def comparison(console: Console, result: Comparison) -> None:
    """Print a comparison: one row per place, then the verdict."""
    digits = result.metric.decimals
    table = Table("where", "difference", "95 % CI", "p", box=box.SIMPLE_HEAD, title=f"{result.a} - {result.b}")
    several = len(result.rows) > 2
    if several:
        table.add_column("p (Holm)")
    table.add_column("runs")
    for (name, d), holm in zip(result.rows, result.holm, strict=True):
        interval = " to ".join(filter(None, (plain(end, digits, True) for end in (d.low, d.high))))
        corrected = [_p(holm)] if several else []
        table.add_row(Text(name), plain(d.mean, digits, True), interval, _p(d.p), *corrected, str(d.n))
    console.print(table)
    if several and any(known(p) for p in result.holm):
        note = f"p (Holm) is corrected for looking at {len(result.rows) - 1} pairs; the first row is one test by itself"
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for said in filter(None, (result.note, result.verdict)):
        console.print(said, markup=False, highlight=False, soft_wrap=True)


def power(console: Console, plan: Plan) -> None:
    """Print how many seeds tell two methods apart: one row per place, then the sentence."""
    table = Table("where", "difference", "std", "seeds so far", "seeds needed", box=box.SIMPLE_HEAD)
    table.title = f"{plan.a} - {plan.b}"
    digits = plan.metric.decimals
    for row in plan.rows:
        needed = f"more than {MOST}" if row.needed == math.inf else plain(row.needed, 0)
        difference, std = plain(row.difference, digits, True), plain(row.std, digits)
        table.add_row(Text(row.place), difference, std, str(row.seeds), needed)
    console.print(table)
    console.print(plan.sentence, markup=False, highlight=False, soft_wrap=True)


def _p(value: float) -> str:
    return probability(value) if known(value) else ""


def reached(console: Console, found: Sequence[tuple[str, Reach]], grid: Grid, delta: float) -> None:
    """Print which differences planned seeds tell: a row per board and number of seeds, then what the first board says.

    Args:
        found: as `kdbench.board.reach.planned` gives it.
        grid: of all cells.
        delta: the difference that seeds are counted for.
    """
    score = grid.metrics.primary
    table = Table("where", "seeds", "methods", "spread", "can tell", f"seeds for {delta:g}", box=box.SIMPLE_HEAD)
    table.title = f"differences to {baseline_of(grid)}{in_unit(score.points)}"
    for place, entry in found:
        spread, told = plain(entry.spread.std, score.decimals), plain(entry.told, score.decimals) or "none"
        needed = f"more than {MOST}" if entry.needed == math.inf else plain(entry.needed, 0)
        table.add_row(Text(place), str(entry.seeds), str(entry.methods), spread, told, needed)
    console.print(table)
    first = [entry for place, entry in found if place == found[0][0]]
    console.print(sentence(first, baseline_of(grid), score), markup=False, highlight=False, soft_wrap=True)
    for source in dict.fromkeys(entry.spread.source for _, entry in found):
        where = dict.fromkeys(place for place, entry in found if entry.spread.source == source)
        if source != first[0].spread.source:
            console.print(f"spread {source}: {'; '.join(where)}", markup=False, highlight=False, soft_wrap=True)

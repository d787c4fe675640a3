"""A map in a terminal: a table for the teacher's lead, and one for each method."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from kdbench.board.maps.gains import LEAD, Field, Map, sentence
from kdbench.board.numbers import in_unit, known, plain


def tables(found: Map) -> Iterator[Table | Text]:
    """The teacher's lead, each method's gain over the plain student, and what decides."""
    unit = in_unit(found.score.points)
    yield _table(found, found.lead, f"{LEAD} over the plain student{unit}")
    for label, field in found.gains.items():
        yield _table(found, field, f"{label} - student{unit}")
    yield Text(f"{sentence(found)} In brackets 95 % intervals over seeds; * leaves 0 out, uncorrected.")


def _table(found: Map, field: Field, title: str) -> Table:
    made = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    down = found.rows.title if found.rows else ""
    made.add_column(Text(down), no_wrap=True)
    for number, label in enumerate(found.columns.labels):
        made.add_column(Text(f"{label} {found.columns.title}" if number == 0 else label), justify="right", no_wrap=True)
    for y in range(len(field.mean)):
        own = [_cell(found, field, y, x) for x in range(field.mean.shape[1])]
        made.add_row(Text(found.rows.labels[y] if found.rows else ""), *map(Text, own))
    return made


def _cell(found: Map, field: Field, y: int, x: int) -> str:
    mean, low, high = (float(part[y, x]) for part in (field.mean, field.low, field.high))
    if not known(mean):
        return "-"
    digits = found.score.decimals
    interval = f" [{plain(low, digits, True)}, {plain(high, digits, True)}]" if known(low) and known(high) else ""
    return f"{plain(mean, digits, True)}{interval}{'*' if bool(np.asarray(field.told)[y, x]) else ''}"

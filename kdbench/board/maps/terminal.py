"""A map in a terminal: a table for the teacher's lead, and one for each method."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from kdbench.board.maps.cells import NOTE, cell
from kdbench.board.maps.gains import LEAD, Field, Map, sentence
from kdbench.board.numbers import in_unit


def tables(found: Map) -> Iterator[Table | Text]:
    """The teacher's lead, each method's gain over the plain student, and what decides."""
    unit = in_unit(found.score.points)
    yield _table(found, found.lead, f"{LEAD} over the plain student{unit}")
    for label, field in found.gains.items():
        yield _table(found, field, f"{label} - student{unit}")
    yield Text(f"{sentence(found)} {NOTE}")


def _table(found: Map, field: Field, title: str) -> Table:
    made = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    down = found.rows.title if found.rows else ""
    made.add_column(Text(down), no_wrap=True)
    for number, label in enumerate(found.columns.labels):
        made.add_column(Text(f"{label} {found.columns.title}" if number == 0 else label), justify="right", no_wrap=True)
    for y in range(len(field.mean)):
        own = [cell(found, field, y, x) for x in range(field.mean.shape[1])]
        made.add_row(Text(found.rows.labels[y] if found.rows else ""), *map(Text, own))
    return made

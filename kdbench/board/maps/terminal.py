"""A map in a terminal: a table for the teacher's lead, and one for each method."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from kdbench.board.maps.cells import NOTE, parts
from kdbench.board.maps.gains import LEAD, Field, Map, sentence
from kdbench.board.numbers import in_unit


def tables(found: Map) -> Iterator[Table | Text]:
    """What the axes are, the teacher's lead, each method's gain over the plain student, and what decides."""
    unit = in_unit(found.score.points)
    across = f"across: {found.columns.title}"
    yield Text(f"down: {found.rows.title}, {across}\n" if found.rows else f"{across}\n")
    for title, field in [(f"{LEAD} over the plain student", found.lead), *_gains(found)]:
        yield Text(f"{title}{unit}", style="bold")
        yield _table(found, field)
    yield Text(f"{sentence(found)} {NOTE}")


def _gains(found: Map) -> Iterator[tuple[str, Field]]:
    for label, field in found.gains.items():
        yield f"{label} - student", field


def _table(found: Map, field: Field) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column("", no_wrap=True)
    for label in found.columns.labels:
        made.add_column(Text(label), justify="right", no_wrap=True)
    for y in range(len(field.mean)):
        own = [_below(*parts(found, field, y, x)) for x in range(field.mean.shape[1])]
        made.add_row(Text(found.rows.labels[y] if found.rows else ""), *map(Text, own))
    return made


def _below(mean: str, interval: str, mark: str) -> str:
    """The interval in a line of its own: four of them beside each other have room in 80 columns."""
    return f"{mean}{mark}\n{interval}" if interval else f"{mean}{mark}"

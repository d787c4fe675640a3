"""A map in Markdown: a table for the teacher's lead, and one for each method."""

from __future__ import annotations

from kdbench.board.maps.cells import NOTE, cell
from kdbench.board.maps.gains import LEAD, Field, Map
from kdbench.board.numbers import in_unit


def markdown(found: Map) -> str:
    """The tables, one under the other; methods are called as in `Map.gains`, where the caller has escaped them."""
    across = found.columns.title
    down = f"; down: {found.rows.title}" if found.rows else ""
    caption = (
        f"Differences to the plain student{in_unit(found.score.points)}, above zero is better. Across: {across}{down}."
    )
    note = NOTE.replace("*", r"`*`")
    parts = [f"{caption} {note}", _table(found, found.lead, LEAD)]
    parts += [_table(found, field, label) for label, field in found.gains.items()]
    return "\n\n".join(parts)


def _table(found: Map, field: Field, title: str) -> str:
    labels = found.rows.labels if found.rows else [""]
    lines = [f"| {title} | {' | '.join(found.columns.labels)} |", "|---|" + "---:|" * len(found.columns.labels)]
    for y, label in enumerate(labels):
        cells = (cell(found, field, y, x).replace("*", r"\*") for x in range(field.mean.shape[1]))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)

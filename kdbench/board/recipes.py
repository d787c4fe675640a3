"""Records at the places of a grid that are of another recipe: told of in one sentence, and in no table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.board.runs import protocol_of
from kdbench.records import Record
from kdbench.suites.grid import Cell

SHOWN = 3  # recipes that are named


def other_recipes(records: Sequence[Record], cells: Sequence[Cell]) -> tuple[str, ...]:
    """One sentence about those of `records` that ran at the places and with the seeds of `cells`; none if there are
    none.

    Args:
        records: that are at no point of the grid, for their recipe or their teacher is another.
        cells: of the grid.
    """
    wanted = {_place(cell.config): cell.config for cell in cells}
    found = Counter(
        _difference(record["cell"], wanted[place]) for record in records if (place := _place(record["cell"])) in wanted
    )
    if not found:
        return ()
    count = sum(found.values())
    kinds = [f"{kind} ({found[kind]})" if len(found) > 1 else kind for kind in sorted(found)]
    told = "; ".join(kinds[:SHOWN]) + " ..." * (len(kinds) > SHOWN)
    what = "record of another recipe is" if count == 1 else "records of another recipe are"
    return (f"{count} {what} not shown: {told}",)


def _place(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = ("role", "dataset", "task", "pair", "student", "seed")
    return (*(cell[key] for key in keys), protocol_of(cell))


def _difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What differs, as a command line or a suite would have it: `epochs = 2`."""
    ours, other = mine["recipe"], theirs["recipe"]
    keys = [key for key in sorted(ours) if key in other and ours[key] != other[key]]
    if keys:
        return ", ".join(f"{key} = {ours[key]}" for key in keys)
    if mine.get("data") != theirs.get("data"):
        return "other images in the folder"
    return "another teacher, or another recipe of it"

"""Whether all seeds of a method learned from one training of the teacher, or each from its own, told by the records."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.board.runs import protocol_of
from kdbench.records import Record
from kdbench.suites.teacher_seeds import ONE, PAIRED, SAID


def teacher_seeds(records: Sequence[Record]) -> str:
    """`one teacher for all seeds` or `one teacher for each seed`; nothing where one seed ran, or places differ."""
    found: dict[tuple[str, ...], dict[int, set[int]]] = {}  # place, teacher -> seed -> the teacher's seeds
    for record in records:
        cell = record["cell"]
        if cell["teachers"] and cell["teachers"][0].get("weights") == "train":
            place = (cell["dataset"], protocol_of(cell), cell["pair"], cell["teachers"][0]["network"])
            found.setdefault(place, {}).setdefault(cell["seed"], set()).add(cell["teachers"][0]["seed"])
    said = {_kind(seeds) for seeds in found.values() if len(seeds) > 1}
    return SAID[said.pop()] if len(said) == 1 else ""


def _kind(seeds: dict[int, set[int]]) -> str:
    used = [teacher for teachers in seeds.values() for teacher in teachers]
    return PAIRED if len(used) == len(seeds) == len(set(used)) else ONE

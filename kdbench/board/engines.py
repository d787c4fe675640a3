"""Which engine ran a record: `kdbench.suites.grid.ENGINE` as it was then, which its id holds."""

from __future__ import annotations

from collections.abc import Iterable

from kdbench.records import Record
from kdbench.suites.grid import ENGINE, engine_of


def engines_of(records: Iterable[Record]) -> list[int]:
    """The engines of records, sorted; those that are of none are left out."""
    return sorted({engine for record in records if (engine := engine_of(record)) is not None})


def mark(records: Iterable[Record]) -> str:
    """`engine 1`, where records are not (or not all) of the present engine; nothing where they are."""
    found = engines_of(records)
    return f"engine {' and '.join(map(str, found))}" if found and found != [ENGINE] else ""

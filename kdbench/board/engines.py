"""Which engine ran a record: `kdbench.suites.grid.ENGINE` as it was then, which its id holds."""

from __future__ import annotations

from collections.abc import Iterable

from kdbench.records import Record
from kdbench.suites.grid import ENGINE, identity

NEWER = 3  # engines after this one that are looked for, in results of a newer kdbench
CANDIDATES = (ENGINE, *range(ENGINE - 1, 0, -1), *range(ENGINE + 1, ENGINE + 1 + NEWER))


def engine_of(record: Record) -> int | None:
    """The engine whose id of its cell a record has; None if it has that of none."""
    return next((engine for engine in CANDIDATES if identity(record["cell"], engine) == record["id"]), None)


def engines_of(records: Iterable[Record]) -> list[int]:
    """The engines of records, sorted; those that are of none are left out."""
    return sorted({engine for record in records if (engine := engine_of(record)) is not None})


def mark(records: Iterable[Record]) -> str:
    """`engine 1`, where records are not (or not all) of the present engine; nothing where they are."""
    found = engines_of(records)
    return f"engine {' and '.join(map(str, found))}" if found and found != [ENGINE] else ""

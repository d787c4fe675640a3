"""Runs that are not like the newest of those that they stand beside."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from kdbench.records import Record


def unlike_newest(
    records: Iterable[Record], beside: Callable[[Record], Hashable], trait: Callable[[Record], object]
) -> list[tuple[Record, Record]]:
    """Runs whose trait is another than that of the newest run, which each has beside it.

    Args:
        beside: runs of the same are held against one another.
        trait: what must be equal.
    """
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(beside(record), []).append(record)
    found = []
    for group in groups.values():
        newest = max(group, key=lambda record: (record["provenance"]["finished_at"], record["id"]))
        found += [(record, newest) for record in group if trait(record) != trait(newest)]
    return found

"""Of which source a method's runs are: a label of a table stands for one, as a row holds one numerics."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.board.newest import unlike_newest
from kdbench.records import Record


def other_sources(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Runs of another source than the newest run of their label, which each has beside it."""
    return unlike_newest(records, lambda record: record["cell"]["method"]["label"], source_of)


def source_of(record: Record) -> str:
    """The digest of the method's source that a record was run from."""
    return record["cell"]["method"]["source"]


def why(stray: Record, newest: Record) -> str:
    """Why such a run does not count, and what to do about it."""
    return (
        f"seed {stray['cell']['seed']} ran from source {source_of(stray)} of its method, the newest run of that name "
        f"from {source_of(newest)}: name the method's file to show the runs of its present source"
    )

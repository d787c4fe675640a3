"""The records that tables can be made of, and a sentence about each that is not what kdbench writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kdbench.board.publishing.audit import audit, shape
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store, read_record
from kdbench.records.files import set_aside
from kdbench.records.reading import Damaged, damaged


def usable(paths: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """The records that are sound, in order of their files, and what is wrong with each of the others."""
    records, said = [], []
    for path in paths:
        try:
            records.append(sound_record(path))
        except KDBenchError as error:
            said.append(str(error))
    return records, said


def sound_record(path: Path) -> Record:
    """Read a record, and look whether its numbers can be those of a run.

    Raises:
        Damaged: naming the file, the key and what is wrong with it.
        KDBenchError: as `kdbench.records.read_record`.
    """
    record = read_record(path)
    for where, rule in _wrong(record):
        raise damaged(path, f"{where}: {rule}")
    return record


def _wrong(record: Record) -> Iterator[tuple[str, str]]:
    found = shape("", record) or (p for p in audit("", record, record["schema"]) if p.where != "id")
    for problem in found:  # an id of an older engine, or of another cell, is for `kdbench validate`
        yield problem.where, problem.rule if problem.value is None else f"{problem.value!r}: {problem.rule}"


def set_aside_damaged(store: Store) -> Iterator[str]:
    """Put what is no record into `records/damaged`, so that its cell runs again; a sentence about each.

    What cannot be read, and what a newer kdbench wrote, stays: it may be as good as ever.
    """
    for path in store.paths():
        try:
            sound_record(path)
        except Damaged as error:
            aside = set_aside(path, path.parent / "damaged")
            yield f"{str(error).rpartition(': ')[0]}: it is now {str(aside)!r}, and its cell runs again"
        except KDBenchError:
            continue

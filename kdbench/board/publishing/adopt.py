"""What another folder of results holds comes to count in a working one: looked through first, copied, never written to.

A published folder is held to its card, as `kdbench validate` holds it; another run's working folder has none, and what
is stale there (older engines) is left. Records are copied as they are, so that their provenance stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.board.publishing.card import Card, read_card
from kdbench.board.publishing.contents import changed, read_entries, teachers_of, unfit
from kdbench.board.publishing.merge import TEACHERS, Entry, differences, stores, unite
from kdbench.board.publishing.problem import Problem
from kdbench.board.publishing.publish import trained
from kdbench.board.publishing.weights import fault_of, forged, where
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store
from kdbench.records.files import write_atomically
from kdbench.suites.grid import Cell
from kdbench.suites.trials import FOLDER


@dataclass
class Arrivals:
    """What a working folder would get.

    Attributes:
        records, teachers: new ones by id.
        weights: files of trained teachers by id.
        absent: teachers that are or will be there without weights, and what to do about each, by id.
        count: how many records and teachers the sources have, new or not.
        beside: whether any record, new or not, stands in the tables of the grid at hand.
    """

    records: dict[str, Entry] = field(default_factory=dict)
    teachers: dict[str, Entry] = field(default_factory=dict)
    weights: dict[str, Path] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    count: tuple[int, int] = (0, 0)
    beside: bool = True

    def bring(self, store: Store, teachers: Store) -> None:
        """Copy it. Weights come before the record that vouches for them, so that a kill in between does no harm.

        Raises:
            KDBenchError: if the disk is full or the folder cannot be written.
        """
        for identity, path in self.weights.items():
            write_atomically(teachers.weights(identity), path.read_bytes())
        for into, entries in ((teachers, self.teachers), (store, self.records)):
            for identity, entry in entries.items():
                write_atomically(into.path(identity), entry.content, flush=False)


@dataclass(frozen=True)
class _Source:
    """What there is to take from a folder.

    Attributes:
        named: as the user wrote it.
        shared: the store of its teachers.
        card: of its suite, if it is published.
        records, teachers: that may be new, by id.
        count: how many of both it has.
    """

    named: Path
    shared: Store
    card: Card | None
    records: Mapping[str, Entry]
    teachers: Mapping[str, Entry]
    count: tuple[int, int]


def arrivals(sources: Sequence[Path], cells: Sequence[Cell], store: Store, teachers: Store) -> Arrivals:
    """Look through folders for what these cells need and stand beside.

    Args:
        sources: published folders of the suite, working ones (`runs/digits`), or results folders with several suites.
        cells: of one suite.
        store, teachers: where their records and their teachers lie.

    Raises:
        KDBenchError: if a folder holds nothing of the suite, anything is wrong with its records or weights, or results
            or weights differ between folders.
    """
    wanted = _trainings(cells)
    looked = [_look(source, cells[0], wanted, store, teachers) for source in dict.fromkeys(sources)]
    found = Arrivals(count=(sum(s.count[0] for s in looked), sum(s.count[1] for s in looked)))
    every = [(source, entry) for source in looked for entry in source.teachers.values()]
    for source, entry in every:
        _check_teacher(source, entry, teachers, every)
    found.teachers = _new(teachers, (entry for _, entry in every))
    _find_weights(looked, teachers, found)
    found.records = _new(store, (entry for source in looked for entry in source.records.values()))
    return found


def _trainings(cells: Iterable[Cell]) -> set[str]:
    """The ids of the trainings of the cells' teachers."""
    return {cell.training_of(spec).id for cell in cells for spec in cell.teachers if spec.weights == "train"}


def _look(source: Path, cell: Cell, wanted: Collection[str], store: Store, teachers: Store) -> _Source:
    """Read and check one source; what the working folder has as well, to the byte, is not looked at again."""
    found = stores(source)
    folder = found.get(store.folder.name)  # a folder of another suite may still have the teachers
    shared = Store(folder.parent / TEACHERS if folder else found.get(TEACHERS, source / TEACHERS))
    if folder == store.folder.resolve() or shared.folder == teachers.folder.resolve():
        raise KDBenchError(f"--from {str(source)!r} is the folder that is worked in: leave it out")
    problems: list[Problem] = []
    card = _card(folder or source, problems)
    same = _same(folder, store) if folder else set()
    leave = same | set(card["left_out"] if card else ())
    kept = read_entries(folder / "records", "records", problems, leave=leave) if folder else {}
    used = {*wanted, *(identity for entry in kept.values() for identity in trained(entry.record))}
    theirs = teachers_of(shared.folder, problems, used)
    problems += unfit(kept, theirs, card, {})
    for identity, entry in theirs.items():
        if (path := shared.weights(identity)).exists() and not teachers.weights(identity).exists():
            problems += forged(path, f"../{TEACHERS}/weights/{path.name}", entry.record, card)
    if card and folder:
        listed = {identity: entry for identity, entry in theirs.items() if identity in card["teachers"]}
        problems += changed(folder, card, kept, listed, {})
    elif not card:
        stale = {problem.file for problem in problems if problem.where == "id"}
        kept = {identity: entry for identity, entry in kept.items() if f"records/{entry.path.name}" not in stale}
        problems = [problem for problem in problems if problem.file not in stale]
    _refuse(source, problems)
    done = {identity: entry for identity, entry in theirs.items() if entry.record["status"] == "done"}
    if not (kept or same or done) and store.folder.name != FOLDER:  # a sweep may find all its trials there
        suite = store.folder.name
        raise KDBenchError(f"--from {str(source)!r} holds no record of suite {suite!r} and none of its teachers")
    _check_fixed(source, cell, kept.values())
    return _Source(source, shared, card, kept, done, (len(kept) + len(same), len(done)))


def _refuse(source: Path, problems: Sequence[Problem]) -> None:
    if problems:
        more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise KDBenchError(
            f"nothing was taken from {str(source)!r}, for it is not what a run leaves: {problems[0]}{more}; `kdbench "
            "validate` lists all that is wrong with a published folder: get a sound copy of it, or leave --from out"
        )


def _card(folder: Path, problems: list[Problem]) -> Card | None:
    """The card of a published folder; a working folder has none."""
    if not (folder / "card.json").exists():
        return None
    try:
        return read_card(folder / "card.json")
    except KDBenchError as error:
        problems.append(Problem("card.json", str(error)))
        return None


def _same(folder: Path, store: Store) -> set[str]:
    """The ids of records that the working folder has to the byte: their content was looked at when they came."""
    both = {path.stem: path for path in store.paths() if (folder / "records" / path.name).is_file()}
    return {name for name, path in both.items() if path.read_bytes() == (folder / "records" / path.name).read_bytes()}


def _check_fixed(source: Path, cell: Cell, entries: Iterable[Entry]) -> None:
    """Refuse records that are of other numerics than the suite fixes: each run would set them aside again."""
    reasons = [reason for entry in entries if (reason := cell.fixed.refused(entry.record))]
    if reasons:
        raise KDBenchError(
            f"{len(reasons)} records of {str(source)!r} would not count ({reasons[0]}): leave --from out, or publish "
            "that folder first, which leaves them there"
        )


def _check_teacher(source: _Source, entry: Entry, teachers: Store, every: Iterable[tuple[_Source, Entry]]) -> None:
    """Refuse a teacher that is another one here, or in another source: their students could not be compared."""
    record = entry.record
    mine = _own(teachers, record["id"])
    if mine and mine.record["status"] == "done" and differences(mine.record, record):
        raise KDBenchError(
            f"teacher {record['cell']['pair']} was trained to other weights in {str(teachers.folder)!r} than in "
            f"{str(source.named)!r}, so that students of the two cannot be compared: choose a new folder with --out "
            "and keep --from"
        )
    for other, theirs in every:
        if theirs.record["id"] == record["id"] and differences(record, theirs.record):
            raise KDBenchError(
                f"teacher {record['cell']['pair']} was trained to other weights in {str(other.named)!r} than in "
                f"{str(source.named)!r}, so that students of the two cannot be compared: name only one of them"
            )


def _own(store: Store, identity: str) -> Entry | None:
    """A record of the working folder; None if it is not there or cannot be used, as its next run would find."""
    path = store.path(identity)
    try:
        return Entry(path, path.read_bytes(), store.read(identity)) if path.exists() else None
    except KDBenchError:
        return None


def _new(store: Store, theirs: Iterable[Entry]) -> dict[str, Entry]:
    """Those of the entries that the working folder lacks, or has as failures only.

    Raises:
        KDBenchError: listing the cells with different results.
    """
    found: list[Entry] = []
    own: dict[str, Entry] = {}
    for entry in theirs:
        identity = entry.record["id"]
        if mine := own.get(identity) or _own(store, identity):
            own[identity] = mine
        if entry.record["status"] != "failed" or not (mine or store.interrupted(identity)):
            found.append(entry)
    kept = unite([*own.values(), *found])
    return {identity: entry for identity, entry in kept.items() if entry is not own.get(identity)}


def _find_weights(looked: Sequence[_Source], teachers: Store, found: Arrivals) -> None:
    """Where the weights of the sources' teachers are; those that are nowhere are `absent`."""
    for source in looked:
        said: Mapping[str, Any] = (source.card or {}).get("weights", {})
        for identity, entry in source.teachers.items():
            here, file = teachers.weights(identity), source.shared.weights(identity)
            what = f"teacher {entry.record['cell']['pair']} of {str(source.named)!r}"
            fetch = where(identity, said.get(identity), here, source.named)
            if here.exists():  # it was here before, or was fetched by hand
                if identity in found.teachers and (fault := fault_of(here, identity, entry.record)):
                    raise KDBenchError(f"weights {str(here)!r} are not those of {what} ({fault}): {fetch}")
            elif file.exists():
                found.weights.setdefault(identity, file)
            else:
                found.absent[identity] = f"the weights of {what} are not there: {fetch}"
    found.absent = {identity: why for identity, why in found.absent.items() if identity not in found.weights}


def waiting_for(cells: Iterable[Cell], absent: Mapping[str, str]) -> str:
    """Why one of the cells cannot be trained with what is there: its teacher's weights are `absent`; else nothing."""
    missing = sorted(_trainings(cells) & absent.keys())
    return absent[missing[0]] if missing else ""


def records_here(found: Arrivals, store: Store) -> list[Record]:
    """The records that a working folder has with what arrives; what cannot be read is left out."""
    own = (_own(store, path.stem) for path in store.paths() if path.stem not in found.records)
    return [entry.record for entry in (*own, *found.records.values()) if entry]

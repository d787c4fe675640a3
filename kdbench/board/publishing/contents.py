"""What lies in a folder of results, read and looked at record by record; its tables are `validate`'s affair."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from kdbench.board.publishing.audit import audit, misplaced, shape, untaught
from kdbench.board.publishing.card import Card, sha256
from kdbench.board.publishing.merge import TEACHERS, Entry
from kdbench.board.publishing.problem import Problem
from kdbench.board.publishing.publish import trained
from kdbench.board.sweeps.published import CARD
from kdbench.errors import KDBenchError
from kdbench.records import read_record
from kdbench.suites.trials import FOLDER


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_file())


def read_entries(
    folder: Path, shown: str, found: list[Problem], only: Collection[str] | None = None, leave: Collection[str] = ()
) -> dict[str, Entry]:
    """The records that can be worked with, by id; what is wrong with any goes to `found`.

    Args:
        only: no others than these are looked at.
        leave: these are not.
    """
    entries: dict[str, Entry] = {}
    for path in files(folder):
        file = f"{shown}/{path.name}"
        if path.stem in leave or (only is not None and path.stem not in only):
            continue
        if path.suffix != ".json":
            found.append(Problem(file, "it is no record"))
            continue
        try:
            content, record = path.read_bytes(), read_record(path)
        except (KDBenchError, OSError) as error:
            found.append(Problem(file, str(error)))
            continue
        wrong = shape(file, record)
        found += wrong
        if not wrong:
            found += audit(file, record, json.loads(content)["schema"])
            entries[record["id"]] = Entry(path, content, record)
    return entries


def teachers_of(folder: Path, found: list[Problem], used: Collection[str]) -> dict[str, Entry]:
    """The records of teachers in `folder`, as `read_entries`."""
    return read_entries(folder / "records", f"../{TEACHERS}/records", found, used)


def unfit(
    kept: Mapping[str, Entry], teachers: Mapping[str, Entry], card: Card | None, trials: Mapping[str, Entry]
) -> Iterator[Problem]:
    """Records that are not of the card's suite, or, trials of its sweep among them, whose teachers are not those that
    they name.
    """
    records = {identity: entry.record for identity, entry in teachers.items()}
    for identity, entry in kept.items():
        file = f"records/{entry.path.name}"
        if card and identity not in card["left_out"]:
            yield from misplaced(file, entry.record, card["suite"])
        yield from untaught(file, entry.record, records, trained(entry.record))
    for entry in trials.values():
        yield from untaught(f"{FOLDER}/records/{entry.path.name}", entry.record, records, trained(entry.record))


def changed(
    folder: Path,
    card: Card,
    kept: Mapping[str, Entry],
    teachers: Mapping[str, Entry],
    trials: Mapping[str, Entry],
) -> Iterator[Problem]:
    """Records that are not as the card has them."""
    kinds = (
        ("records", "records", kept),
        ("teachers", f"../{TEACHERS}/records", teachers),
        (CARD, f"{FOLDER}/records", trials),
    )
    for kind, place, entries in kinds:
        listed = card.get(kind, {})
        for identity in sorted(listed.keys() | entries.keys()):
            file = f"{place}/{identity}.json"
            if identity not in listed:
                yield Problem(file, "it is not in card.json: publish again")
            elif identity in entries and sha256(entries[identity].content) != listed[identity]:
                yield Problem(file, "it was changed after it was published: card.json has another digest")
            elif identity not in entries and not _exists(folder / place, identity):
                yield Problem(file, "card.json names it, but it is not there")


def _exists(folder: Path, identity: str) -> bool:
    return "/" not in identity and (folder / f"{identity}.json").is_file()

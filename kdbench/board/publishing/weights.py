"""Weights of the teachers that kdbench trained: small files are published, of large ones the digest and an address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.board.publishing.card import Card, sha256
from kdbench.board.publishing.merge import TEACHERS, Entry
from kdbench.board.publishing.problem import Problem
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store
from kdbench.records.files import read_bytes

LIMIT = 10_000_000  # bytes: larger files are not published, since a repository keeps every version of a file
About = Mapping[str, Any]  # a card's entry: `sha256` and `bytes` of the file, and the `address` of one not published


@dataclass
class Weights:
    """What is known of the weights of a suite's teachers.

    Attributes:
        about: the card's `weights`, by the teacher's id.
        files: those to publish, by id.
        large: files that are not published and have no address yet.
        lost: ids of teachers whose weights are not at hand and never were published.
    """

    about: dict[str, About] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    large: list[Path] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def gather(teachers: Mapping[str, Entry], roots: Sequence[Path], before: Mapping[str, About], address: str) -> Weights:
    """Find the weights of teachers.

    Args:
        teachers: their records by id.
        roots: results folders in which they may lie; the first sound file of each teacher is taken.
        before: what the card that was published earlier says.
        address: of a folder in the web where files above `LIMIT` lie; empty if it stays what it was.

    Raises:
        KDBenchError: if the only file of a teacher is not what its training left.
    """
    found = Weights()
    for identity, entry in teachers.items():
        path = _sound(identity, entry.record, roots)
        if path is None:
            if identity in before:
                found.about[identity] = before[identity]
            else:
                found.lost.append(identity)
            continue
        content = read_bytes(path, "teacher's checkpoint")
        about = {"sha256": sha256(content), "bytes": len(content)}
        if len(content) <= LIMIT:
            found.files[identity] = path
        else:
            where = f"{address.rstrip('/')}/{path.name}" if address else before.get(identity, {}).get("address", "")
            about["address"] = where
            found.large += [] if where else [path]
        found.about[identity] = about
    return found


def _sound(identity: str, record: Record, roots: Sequence[Path]) -> Path | None:
    faults = []
    for root in dict.fromkeys(roots):
        path = Store(root / TEACHERS).weights(identity)
        if not path.exists():
            continue
        if not (fault := fault_of(path, identity, record)):
            return path
        faults.append(f"weights {str(path)!r} are not those of the teacher's record ({fault})")
    if faults:
        raise KDBenchError(f"nothing was published: {faults[0]}; delete the file, or bring the right one")
    return None


def fault_of(path: Path, identity: str, record: Record) -> str:
    """Why a file is not the weights that a teacher's training left; nothing if it is."""
    from kdbench.training.weights import fault_of_trained  # not at the top: it loads torch

    return fault_of_trained(path, identity, record)


def where(identity: str, about: About | None, place: Path, folder: Path) -> str:
    """What to do about a teacher's weights that a folder does not carry, in words.

    Args:
        place: where the file is to be put.
        folder: that does not carry them.
    """
    if about and about.get("address"):
        size = about["bytes"] / 1e6
        return f"get {about['address']} ({size:.0f} MB, sha256 {about['sha256']}) and put it at {str(place)!r}"
    if about:
        return f"ask whoever published {str(folder)!r} for {identity}.safetensors, and put it at {str(place)!r}"
    return (
        f"{str(folder)!r} carries no weights of it: publish them from where it was trained, or leave --from out and "
        "run the methods to compare with here as well"
    )


def problems(folder: Path, card: Card | None, teachers: Mapping[str, Entry]) -> Iterator[Problem]:
    """What is wrong with the weights beside a published suite: missing, forged, or of nobody.

    Args:
        teachers: the records of the suite's teachers, by id.
    """
    store, said = Store(folder.parent / TEACHERS), (card or {}).get("weights", {})
    for identity, entry in sorted(teachers.items()):
        path, file = store.weights(identity), f"../{TEACHERS}/weights/{identity}.safetensors"
        about = said.get(identity)
        if path.exists():
            yield from forged(path, file, entry.record, card)
        elif about and "address" not in about:
            yield Problem(file, "card.json names it, but it is not there")
        elif about is None and card and entry.record.get("weights_sha256"):
            yield Problem(file, "the teacher's weights are not there: publish from where it was trained")
    for identity in sorted(said.keys() - teachers.keys()):
        yield Problem("card.json", "these are weights of none of its teachers", "weights", identity)


def forged(path: Path, file: str, record: Record, card: Card | None) -> Iterator[Problem]:
    """What is wrong with a file of weights that is there.

    Args:
        file: what problems call it.
        card: of the suite beside it, if it is published.
    """
    about = (card or {}).get("weights", {}).get(record["id"])
    if fault := fault_of(path, record["id"], record):
        yield Problem(file, fault)
    elif about is None:
        if card:
            yield Problem(file, "it is not in card.json: publish again")
    elif sha256(read_bytes(path, "teacher's checkpoint")) != about["sha256"]:
        yield Problem(file, "it was changed after it was published: card.json has another digest")


def strangers(folder: Path) -> Iterator[Problem]:
    """Files among the weights beside a published suite that are of no teacher."""
    store = Store(folder.parent / TEACHERS)
    for path in sorted((store.folder / "weights").glob("*")):
        if path.suffix != ".safetensors" or not store.has(path.stem):
            yield Problem(f"../{TEACHERS}/weights/{path.name}", "it is of no teacher that has a record here")

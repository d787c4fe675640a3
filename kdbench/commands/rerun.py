"""`kdbench validate FOLDER --rerun N`: train some published cells again, and see whether the results come out again."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.board.publishing.card import read_card, sha256
from kdbench.board.publishing.merge import differences
from kdbench.board.publishing.problem import Problem
from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.records import Record, Store
from kdbench.suites.tables import cells_of
from kdbench.training.listener import Listener

DECIDES = (("numerics",), ("hardware", "processor"), ("versions", "torch"))  # of the provenance: the bits of a result


@dataclass
class Rerun:
    """What came of it: `problems` speak against the folder, `notes` against nobody."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def drawn(folder: Path, count: int) -> list[Record]:
    """Finished records of a published folder, drawn by the digest of its card: the same folder, the same cells.

    Raises:
        KDBenchError: if it is no published folder.
    """
    try:
        card = read_card(folder / "card.json")
    except KDBenchError as error:
        raise KDBenchError(f"{str(folder / 'card.json')!r}: {error}") from error
    records = [record for record in Store(folder).all() if record["id"] not in card["left_out"]]
    done = {record["id"]: record for record in records if record["status"] == "done"}
    seed = sha256((folder / "card.json").read_bytes())
    return [done[identity] for identity in random.Random(seed).sample(sorted(done), min(count, len(done)))]


def rerun(
    folder: Path,
    count: int,
    listener: Listener,
    data: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Rerun:
    """Train drawn cells, and the teachers they learn from, in a folder of their own, and compare the results."""
    found, published = Rerun(), drawn(folder, count)
    cells = {cell.id: cell for cell in cells_of(read_card(folder / "card.json")["suite"])}
    again = [cells[record["id"]] for record in published if record["id"] in cells]
    with tempfile.TemporaryDirectory() as scratch:
        LocalExecutor(Path(scratch), listener, data, device, "auto", 0, threads).run(again)
        for record in published:
            if record["id"] in cells:
                _compare(found, record, Store(Path(scratch) / cells[record["id"]].suite).read(record["id"]))
            else:
                found.notes.append(f"{_name(record)} cannot be trained again: its method or engine is another one here")
    return found


def _compare(found: Rerun, published: Record, mine: Record) -> None:
    other = differences(published, mine)
    if not other:
        found.notes.append(f"{_name(published)} came out again to the bit")
        return
    name = next((name for name in ("status", published_first(published)) if name in other), min(other))
    theirs, ours = other[name]
    if differ := _other_numerics(published, mine):
        found.notes.append(
            f"{_name(published)}: {name} is {ours} here and {theirs} there, but this machine's numerics differ "
            f"({differ}), so that says nothing against the folder"
        )
    else:
        rule = f"trained again under the same numerics it is {ours}"
        found.problems.append(Problem(f"records/{published['id']}.json", rule, f"result.{name}", theirs))


def published_first(record: Record) -> str:
    """The name of a result's primary score."""
    from kdbench.tasks.metrics import of

    return of(record["cell"]["task"]).primary.name


def _other_numerics(a: Record, b: Record) -> str:
    """What decides the bits and differs between two runs; nothing if all is alike."""

    def values(record: Record) -> dict[str, Any]:
        source: dict[str, Any] = dict(record["provenance"])
        return {
            path[-1]: source.get(path[0], {}) if len(path) == 1 else source[path[0]].get(path[1]) for path in DECIDES
        }

    ours, theirs = values(b), values(a)
    return ", ".join(f"{name}: {ours[name]} here, {theirs[name]} there" for name in ours if ours[name] != theirs[name])


def _name(record: Record) -> str:
    cell = record["cell"]
    return f"{record['id']} ({cell['method']['label']}, {cell['pair']}, seed {cell['seed']})"

"""Records of several machines become one folder: each cell once, and no choice between results that differ."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import KDBenchError
from kdbench.records import Record, Store, read_record
from kdbench.records.files import explained, write_atomically
from kdbench.records.leftovers import sweep_half_written
from kdbench.suites.trials import FOLDER, SETTINGS
from kdbench.tasks.metrics import of

TEACHERS = "teachers"  # the folder of the teachers, beside those of the suites


@dataclass(frozen=True)
class Entry:
    """A record's file, as it lies there; `record` is read with today's keys."""

    path: Path
    content: bytes
    record: Record


def entries(folder: Path) -> list[Entry]:
    """The records in a `records` folder, in order of id; none if there is no such folder.

    Raises:
        KDBenchError: naming the file that is no record.
    """
    return [Entry(path, path.read_bytes(), read_record(path)) for path in sorted(folder.glob("*.json"))]


def unite(found: Iterable[Entry]) -> dict[str, Entry]:
    """One entry per cell: of equal results the first, of failures the last; a failure gives way to anything else.

    Raises:
        KDBenchError: listing every cell that has different results in different files.
    """
    cells: dict[str, list[Entry]] = {}
    for entry in found:
        cells.setdefault(entry.record["id"], []).append(entry)
    kept, conflicts = {}, []
    for identity, same in sorted(cells.items()):
        ended = [entry for entry in same if entry.record["status"] != "failed"]
        kept[identity] = ended[0] if ended else same[-1]
        conflicts += [_conflict(ended[0], e) for e in ended[1:] if differences(ended[0].record, e.record)]
    if conflicts:
        raise KDBenchError(
            "the same cell has different results in different folders, so nothing was written: delete the records that"
            " are not to stay and try again\n" + "\n".join(conflicts)
        )
    return kept


def differences(a: Record, b: Record) -> dict[str, tuple[Any, Any]]:
    """Where two records of one cell disagree: both values by name. What one did not measure is no difference."""
    if a["status"] != b["status"]:
        return {"status": (a["status"], b["status"])}
    ours, theirs = a.get("result") or {}, b.get("result") or {}
    both = {name: (ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())}
    both["weights_sha256"] = a.get("weights_sha256"), b.get("weights_sha256")  # of trained teachers
    return {name: pair for name, pair in both.items() if None not in pair and pair[0] != pair[1]}


def _conflict(first: Entry, second: Entry) -> str:
    cell, found = first.record["cell"], differences(first.record, second.record)
    name = next((name for name in ("status", *_scores(cell["task"])) if name in found), min(found))
    a, b = found[name]
    return (
        f"  {first.record['id']} {cell['method']['label']}, seed {cell['seed']}, {cell['pair']}: {name} is {a} in"
        f" {str(first.path)!r} and {b} in {str(second.path)!r}"
    )


def _scores(task: str) -> list[str]:
    """The scores of a task, the primary one first; none of a task that is unknown here, whose records merge as well."""
    try:
        return [metric.name for metric in of(task).scores]
    except KDBenchError:
        return []


def stores(folder: Path) -> dict[str, Path]:
    """The suites in a results folder, or the one whose folder it is, with sweeps and teachers: name -> folder.

    Raises:
        KDBenchError: if there are none.
    """
    if not folder.is_dir():
        raise KDBenchError(f"folder {str(folder)!r} does not exist: give a results folder, or a suite's folder in one")
    folder = folder.resolve()
    one = (folder / "records").is_dir()
    candidates = [folder, folder.parent / TEACHERS] if one else sorted(folder.iterdir())
    found = {path.name: path for path in candidates if any(path.glob("records/*.json"))}
    swept = [path / FOLDER for path in candidates if any((path / FOLDER).glob("records/*.json"))]
    found |= {f"{path.parent.name}/{FOLDER}": path for path in swept}
    if not found:
        raise KDBenchError(f"{str(folder)!r} holds no records: give a results folder, or a suite's folder in one")
    return found


def merge(sources: Sequence[Path], to: Path) -> dict[str, int]:
    """Unite results folders into a new one, all or nothing.

    Records are copied as they are, and trained teachers' weights with the record that is kept; tables are not, for
    `kdbench publish` makes them.

    Args:
        sources: results folders (`<suite>/records` and `teachers/records` inside) or suites' folders.
        to: a folder that is empty or not there yet.

    Returns:
        The number of records of each suite, and of the teachers.

    Raises:
        KDBenchError: if results differ, a record is damaged, or `to` holds something.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise KDBenchError(f"{str(to)!r} is not empty: name a new folder with --to, and as a source what is to stay")
    found: dict[str, list[Entry]] = {}
    for source in sources:
        for name, folder in stores(source).items():
            found.setdefault(name, []).extend(entries(folder / "records"))
    united = _all_or_none(found)
    settings = _settings(sources)
    with explained(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        sweep_half_written(to.parent, name=to.name)
        staged = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}.", suffix=".partial"))
        try:
            for name, kept in united.items():
                for entry in kept.values():
                    _copy(entry, found[name], staged / name)
            for name, content in settings.items():
                write_atomically(staged / name / SETTINGS, content)
            staged.chmod(0o755)
            staged.replace(to)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return {name: len(kept) for name, kept in sorted(united.items())}


def _all_or_none(found: Mapping[str, list[Entry]]) -> dict[str, dict[str, Entry]]:
    """Unite each suite; the error is about all of them."""
    united, errors = {}, []
    for name, same in sorted(found.items()):
        try:
            united[name] = unite(same)
        except KDBenchError as error:
            errors.append(f"{name}: {error}")
    if errors:
        raise KDBenchError("\n".join(errors))
    return united


def _copy(entry: Entry, every: Sequence[Entry], folder: Path) -> None:
    """Copy a record, and its weights from wherever they are: a record may have come to a folder without them."""
    identity, into = entry.record["id"], Store(folder)
    same = [entry, *(other for other in every if other.record["id"] == identity and alike(other, entry))]
    files = [Store(each.path.parents[1]).weights(identity) for each in same]
    if weights := next((file for file in files if file.is_file()), None):
        into.weights(identity).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights, into.weights(identity))
    write_atomically(into.path(identity), entry.content)


def alike(a: Entry, b: Entry) -> bool:
    """Whether two records of one cell say the same."""
    return not differences(a.record, b.record)


def _settings(sources: Sequence[Path]) -> dict[str, bytes]:
    """How the trials of each sweep were made; trials of several ways stand for no sweep together."""
    found: dict[str, bytes] = {}
    for source in sources:
        for name, folder in stores(source).items():
            file = folder / SETTINGS
            if name.endswith(f"/{FOLDER}") and file.is_file():
                content = file.read_bytes()
                if json.loads(found.setdefault(name, content)) != json.loads(content):
                    raise KDBenchError(
                        f"the trials of {name} were made in different ways ({str(file)!r} is another one), so nothing "
                        "was written: run `kdbench sweep` alike in both, or merge one without the other's sweep"
                    )
    return found

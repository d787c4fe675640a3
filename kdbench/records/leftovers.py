"""What killed runs leave behind, and when it may go."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kdbench.errors import KDBenchError
from kdbench.records.reading import read_record

SETTLED = 60  # seconds after which nobody writes a half-written file any more: another command may be at work
FORGOTTEN = 30 * 24 * 3600  # seconds after which the checkpoint of a cell that no suite has trained since is let go
HALF = re.compile(r"\..+\.partial")  # as `kdbench.records.files.write_atomically` calls them until they are whole


def sweep(out: Path) -> None:
    """Clear a results folder whose lock this process holds of what earlier runs left.

    Half-written files go, in every suite's folder and the teachers'. Checkpoints of cells that are done go. Those of
    cells that a suite no longer names stay for 30 days after they were written, for they are used again if it returns.
    """
    for folder in _folders(out):
        for part in ("records", "checkpoints", "weights", "students"):
            sweep_half_written(folder / part, 0)  # only runs write there
        sweep_half_written(folder)
        _sweep_checkpoints(folder)


def sweep_half_written(folder: Path, settled: float = SETTLED, name: str = "") -> None:
    """Remove half-written files (and folders: a merge's) that have not changed for some seconds.

    Args:
        name: only those that were to get this name, where the folder is not kdbench's own.
    """
    for entry in _entries(folder):
        mine = HALF.fullmatch(entry.name) and entry.name.startswith(f".{name}")
        if mine and _age(entry) >= settled:
            _remove(entry)


def _sweep_checkpoints(folder: Path) -> None:
    for entry in _entries(folder / "checkpoints"):
        identity = entry.name.partition(".")[0]
        done = entry.name.endswith(".pt") and _ended(folder / "records" / f"{identity}.json")
        if done or _age(entry) > FORGOTTEN:
            _remove(entry)


def _ended(record: Path) -> bool:
    """Whether a cell has a record that nothing is added to: a failed one may be tried again from its checkpoint."""
    try:
        return record.exists() and read_record(record)["status"] != "failed"
    except KDBenchError:
        return False


def _folders(out: Path) -> Iterator[Path]:
    for entry in _entries(out):
        for folder in (Path(entry.path), Path(entry.path) / "sweep"):  # a suite's own, and that of its trials
            if (folder / "records").is_dir():
                yield folder


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []


def _age(entry: os.DirEntry[str]) -> float:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0


def _remove(entry: os.DirEntry[str]) -> None:
    """What cannot be removed (another user's) stays: it is no reason not to run."""
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
        return
    with suppress(OSError):
        os.unlink(entry.path)

"""What lies in the image folders that a suite names, as a part of its cells: moved images make other cells.

Known without an image library, since ids are needed before any data is loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from kdbench.errors import KDBenchError

TRAIN = ("train", "training")
TEST = ("val", "validation", "valid", "test")
PARALLEL = ("tsv", "moses")  # kinds of parallel text in files
ABSENT = "absent"  # in place of the digest where the folder is not at hand
READ_BELOW = 10**9  # bytes up to which the files' contents count, not their names and sizes alone

File = tuple[str, str, int, int]  # name inside the folder, path, bytes, when it was last changed (ns)


def split(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these folders that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def content(dataset: str) -> str | None:
    """16 hex digits over the files of `folder:PATH`, `table:PATH` and of parallel text in `tsv:PATH` or `moses:PATH`:
    names, sizes and, below 1 GB in all, what is in them.

    Returns:
        `ABSENT` if there is no such folder here, None for other data sets (what those are their name says).

    Raises:
        KDBenchError: if a file or folder in it cannot be read.
    """
    kind, _, path = dataset.partition(":")
    if kind not in ("folder", "table", *PARALLEL):
        return None
    folder = Path(path).expanduser()
    if kind in PARALLEL and not folder.is_dir():
        return _of_files(folder)
    splits = {name: found for name, names in (("train", TRAIN), ("test", TEST)) if (found := split(folder, names))}
    try:
        files = tuple(file for name, found in (splits or {"": folder}).items() for file in _files(name, found))
        return _digest(files) if files else ABSENT
    except OSError as error:
        raise KDBenchError(
            f"dataset {dataset!r} cannot be read ({error.strerror}: {error.filename!r}): make its files readable"
        ) from error


def _of_files(path: Path) -> str:
    """Of one file, or of those whose names only add an ending to it."""
    found = [path] if path.is_file() else sorted(each for each in path.parent.glob(f"{path.name}.*") if each.is_file())
    files = [(each.name, str(each), (stat := each.stat()).st_size, stat.st_mtime_ns) for each in found]
    return _digest(tuple(files)) if files else ABSENT


def _files(name: str, folder: Path) -> Iterator[File]:
    """All files below a folder in a fixed order, without hidden ones."""
    for at, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        inside = Path(name, Path(at).relative_to(folder)).as_posix()
        for file in sorted(file for file in files if not file.startswith(".")):
            path = os.path.join(at, file)
            if os.path.isfile(path):
                stat = os.stat(path)
                yield f"{inside}/{file}", path, stat.st_size, stat.st_mtime_ns


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@cache
def _digest(files: tuple[File, ...]) -> str:
    total, small = hashlib.sha256(), sum(size for _, _, size, _ in files) < READ_BELOW
    for name, path, size, _ in files:
        total.update(f"{name}\n{size}\n".encode("utf-8", "surrogateescape"))
        if small:
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]

"""Files: written whole or not at all, read or said why not, and set aside where they are no use."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdbench.errors import KDBenchError


def write_atomically(path: Path, content: bytes | memoryview, flush: bool = True) -> None:
    """Write a file beside its place, flush it to disk, and rename it there.

    Args:
        flush: not needed for copies of what lies elsewhere: a thousand of them would take minutes on some disks.

    Raises:
        KDBenchError: if the disk is full or the folder cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class Unreadable(KDBenchError):  # noqa: N818  (a state of the file, which may be as good as ever)
    """The operating system does not give a file's content: it says nothing about the content."""


def read_bytes(path: Path, what: str) -> bytes:
    """A file's content.

    Args:
        what: it is, for the sentence: `"record"`.

    Raises:
        Unreadable: naming the file and the reason, whatever it is that keeps it from being read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, what, error) from error


def unreadable(path: Path, what: str, error: OSError) -> Unreadable:
    """The sentence for a file that is there and cannot be read; it never says to delete it."""
    mine = error.errno in (errno.EACCES, errno.EPERM)
    fix = "change its permissions, or run as its owner" if mine else "see to its disk and try again"
    return Unreadable(f"{what} {str(path)!r} cannot be read ({error.strerror or error}): {fix}")


def set_aside(path: Path, folder: Path | None = None) -> Path:
    """Give a file (or whatever lies in its place) the name `NAME.damaged`, so that nothing takes it for whole again.

    Args:
        folder: where it goes under its own name instead.

    Returns:
        its new place; a number is added to a name that is taken.

    Raises:
        KDBenchError: if it cannot be moved.
    """
    name = path.name if folder else f"{path.name}.damaged"
    folder = folder or path.parent
    place, number = folder / name, 2
    while os.path.lexists(place):
        place, number = folder / f"{name}.{number}", number + 1
    with explained(place):
        folder.mkdir(exist_ok=True)
        path.rename(place)
    return place


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise KDBenchError(
                f"no space left on the disk of {str(path.parent)!r}: free some and run the same command again; "
                "finished cells are kept"
            ) from error
        raise KDBenchError(
            f"cannot write {str(path)!r} ({error.strerror}): choose another folder with --out"
        ) from error

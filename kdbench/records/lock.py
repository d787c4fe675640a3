"""One run at a time in a results folder; the lock falls with its process, however that ends."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdbench.errors import KDBenchError
from kdbench.records.files import explained

try:
    import fcntl
except ImportError:  # no such locks on Windows: two runs in one folder are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN)  # what flock says of a lock that another process holds
_held: set[int] = set()  # descriptors of locks; a forked child has them too and would hold the lock as long as it lives


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; where the file system has no locks, say so and go on.

    Raises:
        KDBenchError: if another process holds it, or the folder cannot be written.
    """
    with explained(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(folder / ".lock")
    _held.add(handle)
    try:
        _take(handle, folder)
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _opened(path: Path) -> int:
    """The lock's file, which every user of a shared folder may open, whoever made it."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        with suppress(OSError):
            path.chmod(0o666)  # the process's mask may have taken the others' rights
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)  # enough for a lock, except on NFS


def _take(handle: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in TAKEN:
            raise KDBenchError(
                f"another kdbench run is working in {str(folder)!r}: wait for it or choose another folder by --out"
            ) from None
        print(
            f"kdbench: the file system of {str(folder)!r} has no locks ({error.strerror}): start no second run in it",
            file=sys.stderr,
        )


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Let the processes of this machine do something one after the other; where there are no such locks, at once.

    Args:
        name: of what they do.
    """
    handle = None
    if fcntl is not None:
        with suppress(OSError):
            handle = _opened(Path(tempfile.gettempdir()) / f"kdbench-{name.replace(':', '-')}.lock")
            fcntl.flock(handle, fcntl.LOCK_EX)
    if handle is not None:
        _held.add(handle)
    try:
        yield
    finally:
        if handle is not None:
            _held.discard(handle)
            os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a run is working in the folder now, as far as its file system says."""
    if fcntl is None:
        return False
    try:
        with open(folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in TAKEN
    return False


def _leave_to_the_parent() -> None:
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)

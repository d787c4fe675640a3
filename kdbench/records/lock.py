"""One run at a time in a results folder; the lock falls with its process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdbench.errors import KDBenchError
from kdbench.records.files import explained

try:
    import fcntl
except ImportError:  # no such locks on Windows: two runs in one folder are then the user's to avoid
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        KDBenchError: if another process holds it, or the folder cannot be written.
    """
    with explained(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115  (held open for as long as the lock is)
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise KDBenchError(
                    f"another kdbench run is working in {str(folder)!r}: wait for it or choose another folder by --out"
                ) from None
        yield


def is_locked(folder: Path) -> bool:
    """Whether a run is working in the folder now."""
    if fcntl is None or not (folder / ".lock").exists():
        return False
    with open(folder / ".lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

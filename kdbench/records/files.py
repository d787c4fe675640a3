"""Files that are whole or not there, and a sentence where the disk refuses them."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdbench.errors import KDBenchError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file beside its place, flush it to disk, and rename it there.

    Raises:
        KDBenchError: if the disk is full or the folder cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


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

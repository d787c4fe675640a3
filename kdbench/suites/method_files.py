"""A user's method files: imported, and the process left as it was."""

from __future__ import annotations

from pathlib import Path

from kdbench import registry
from kdbench.errors import KDBenchError


def load_methods(path: str | Path) -> list[str]:
    """Import a file, and give the names of the methods that it registers.

    What the file does to the process while it is imported is put back, since every other cell runs in it too.

    Raises:
        KDBenchError: as `kdbench.registry.load_file`, or if the file changes one of torch's settings.
    """
    from kdbench.hardware.settings import Surroundings, restore, settings  # not at the top: it loads torch

    before, around = settings(), Surroundings.now()
    try:
        names = registry.load_file(path)
    finally:
        around.restore()
        changed = restore(before)
    if changed:
        raise KDBenchError(
            f"method file {str(path)!r} changes {changed} when it is imported, and every cell would train so: take "
            "that out of the file's top level"
        )
    return names

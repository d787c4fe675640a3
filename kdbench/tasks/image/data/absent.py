"""The sentences for data that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdbench.errors import AbsentData, KDBenchError


def absent(name: str, root: Path, what: str, why: str = "") -> AbsentData:
    """Make the error for a set that is not in the data folder.

    Args:
        what: which files go where, as the end of the sentence "put ...".
        why: what failed when it was fetched or opened, if that was tried.
    """
    reason = f" and {why}" if why else ""
    return AbsentData(
        f"dataset {name!r} is not in the data folder {str(root)!r}{reason}: put {what} "
        "(KDBENCH_DATA or --data names another data folder)"
    )


@contextmanager
def attempt(name: str, root: Path, what: str, failure: str = "its download failed") -> Iterator[None]:
    """Turn whatever a library raises while it fetches or opens a set into the sentence of `absent`."""
    try:
        yield
    except KDBenchError:
        raise
    except Exception as error:  # torchvision, urllib and the hub raise a dozen kinds
        why = " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__
        raise absent(name, root, what, f"{failure} ({why})") from error

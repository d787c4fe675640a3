"""Where a number comes from: versions, hardware, git revision, time."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import kdbench
from kdbench.hardware.machine import hardware
from kdbench.hardware.numerics import Numerics
from kdbench.records.types import Provenance


def provenance(numerics: Numerics) -> Provenance:
    """The record's `provenance`."""
    return {
        "versions": dict(_versions()),
        "hardware": hardware(numerics.device),
        "numerics": numerics.describe(),
        "git": revision(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = {"kdbench": kdbench.__version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return tuple(found.items())


@cache
def revision() -> str | None:
    """The git revision of kdbench's own checkout, `+` behind it if it has uncommitted changes; None without one."""
    here = Path(kdbench.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return None  # installed inside somebody else's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None

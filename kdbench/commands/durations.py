"""Spans of time, as they are typed and as they are told."""

from __future__ import annotations

import re

from kdbench.errors import KDBenchError

SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parsed(text: str, option: str) -> float:
    """Seconds of `90s`, `30m`, `2h`, `1h30m`.

    Args:
        option: where it was given, for the sentence.

    Raises:
        KDBenchError: if it is no such text, or no time at all.
    """
    found = SPAN.fullmatch(text.strip().lower())
    parts = [float(part or 0) for part in found.groups()] if found else []
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise KDBenchError(f"{option} {text!r} is no span of time: write 90s, 30m, 2h or 1h30m")
    return seconds


def told(seconds: float) -> str:
    """A span of time with as many digits as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

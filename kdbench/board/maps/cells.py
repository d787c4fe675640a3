"""A cell of a map as text: the difference, its interval, and a mark where that leaves 0 out."""

from __future__ import annotations

from kdbench.board.maps.gains import Field, Map
from kdbench.board.numbers import known, plain

NOTE = "In brackets 95 % intervals over seeds; * leaves 0 out, uncorrected."


def cell(found: Map, field: Field, y: int, x: int) -> str:
    """`+1.60 [+0.27, +2.93]*`; `-` where there is no run."""
    mean, interval, mark = parts(found, field, y, x)
    return f"{mean} {interval}".rstrip() + mark


def parts(found: Map, field: Field, y: int, x: int) -> tuple[str, str, str]:
    """The difference, or `-` where there is no run; its interval, and the mark, each empty where there is none."""
    mean, low, high = (float(part[y, x]) for part in (field.mean, field.low, field.high))
    if not known(mean):
        return "-", "", ""
    digits = found.score.decimals
    interval = f"[{plain(low, digits, True)}, {plain(high, digits, True)}]" if known(low) and known(high) else ""
    return plain(mean, digits, True), interval, "*" if field.told[y, x] else ""

"""Numbers as text: rounded to their uncertainty, aligned on the decimal point, with a true minus sign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

POINT, DIGIT = "\u2008", "\u2007"  # spaces as wide as a point and as a digit
MINUS, TIMES = "\u2212", "\u00d7"
MOST = 2  # decimals where nothing else is said: of a share of 10,000 test samples in %, which has no third


def known(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def decimals(spread: float, most: int = MOST) -> int:
    """How many decimals a spread leaves to a number, by the rule of the Particle Data Group: two significant digits of
    the spread if they are below 36, else one. Without a spread as many as there may be.
    """
    if not known(spread) or spread <= 0:
        return most
    exponent = math.floor(math.log10(spread))
    leading = round(spread / 10.0 ** (exponent - 2))  # the first three digits, 100 to 1000
    digits = 2 if leading < 355 or leading >= 950 else 1
    return min(max(digits - 1 - exponent - (leading >= 950), 0), most)


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """`79.65`, with `sign` also `+0.20`; a true minus, and no sign for what rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def plain(value: Any, digits: int, sign: bool = False) -> str:
    """As `fixed` for terminals and sentences, whose encoding may lack the true minus; nothing for what is unknown."""
    return fixed(value, digits, sign).replace(MINUS, "-") if known(value) else ""


def with_unit(text: str, unit: str) -> str:
    """`0.20 points`; the number alone where there is no unit."""
    return f"{text} {unit}".rstrip()


def in_unit(unit: str) -> str:
    """` in points`, with its space; nothing where there is no unit."""
    return f" in {unit}" if unit else ""


def capital(text: str) -> str:
    """The same with a capital at its head."""
    return text[:1].upper() + text[1:]


def aligned(texts: Sequence[str]) -> list[str]:
    """Right-aligned texts whose decimal points stand below each other: the shorter ones end in spaces."""
    longest = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [text + _filling(text, longest) if text else "" for text in texts]


def _filling(text: str, longest: int) -> str:
    own = len(text.partition(".")[2])
    return POINT * bool(longest and not own) + DIGIT * (longest - own)


def interval(low: float, high: float, digits: int) -> str:
    """`[+1.1, +3.6]`."""
    return f"[{fixed(low, digits, True)}, {fixed(high, digits, True)}]" if known(low) and known(high) else ""


def scaled(value: Any) -> str:
    """A count with a suffix: `0`, `128`, `77.8k`, `1.23M`; nothing for what is unknown."""
    if not known(value):
        return ""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def probability(p: float) -> str:
    """A p-value: two digits, and no more zeros than say something."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"

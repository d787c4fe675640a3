"""Parallel text: pairs of sentences, and what a data set of them is."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Pair(NamedTuple):
    """A source sentence, its reference, and the reference's language."""

    source: str
    target: str
    language: str = ""


@dataclass(frozen=True)
class Splits:
    """What a reader gives: the parts that the data set comes in, and which pairs were left out, by reason.

    Attributes:
        train, test: of the main pair of languages; a set without a test split has none, and one is cut from the rest.
        others: pairs of the same source into other languages.
    """

    train: list[Pair]
    test: list[Pair] = field(default_factory=list)
    others: list[Pair] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def clean(text: str) -> str:
    """Text in Unicode's composed form, with single spaces and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def sound(rows: Iterable[tuple[str, str]], language: str) -> tuple[list[Pair], dict[str, int]]:
    """Cleaned pairs, each once, and how many were left out because a side was empty or the pair came before."""
    kept: dict[Pair, None] = {}
    empty = twice = 0
    for source, target in rows:
        pair = Pair(clean(source), clean(target), language)
        if not pair.source or not pair.target:
            empty += 1
        elif pair in kept:
            twice += 1
        else:
            kept[pair] = None
    return list(kept), {"empty": empty, "duplicate": twice}


def digest(pairs: Iterable[Sequence[str]]) -> str:
    """16 hex digits over pairs in their order."""
    total = hashlib.sha256()
    for pair in pairs:
        total.update("\x1f".join(pair).encode() + b"\x1e")
    return total.hexdigest()[:16]

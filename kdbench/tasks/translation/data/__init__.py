"""Parallel text: where it comes from, and what a suite's protocol does to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import unknown
from kdbench.tasks.translation.data import files, hub, iso_codes, sword
from kdbench.tasks.translation.data.pairs import Pair, Splits
from kdbench.tasks.translation.data.protocol import Translation, resolve
from kdbench.tasks.translation.data.sets import TranslationData, make

NAMES = ("iso_codes", "sword", "tsv:PATH", "moses:PATH", "hub:ID")


def load_data(
    name: str, options: Mapping[str, Any] | None, protocol: Mapping[str, Any], root: Path | None = None
) -> TranslationData:
    """A data set of parallel text with its options under a protocol (`protocol.resolve`).

    Raises:
        KDBenchError: for an unknown name, a wrong option or protocol, or data that is absent or damaged.
    """
    resolved = resolve(options, protocol, name)
    return make(name, read(name, resolved.translation, root), resolved)


def read(name: str, options: Translation, root: Path | None = None) -> Splits:
    """The splits that a data set comes in."""
    kind, colon, path = name.partition(":")
    source, target, others = options.source, options.target, options.others
    if kind == "iso_codes" and not colon:
        return iso_codes.read(target, others, root)
    if kind == "sword" and not colon:
        return sword.read(source, target, root)
    if kind in files.KINDS and path:
        return files.read(kind, Path(path).expanduser(), source, target, others)
    if kind == "hub" and path:
        return hub.read(path, source, target, others, root)
    raise unknown("dataset of translation", name, NAMES)


__all__ = ["Pair", "Splits", "TranslationData", "load_data", "read"]

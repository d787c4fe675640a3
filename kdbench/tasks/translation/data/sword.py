"""Verses of the New Testament: modules of the SWORD project, in its zText format, by the standard library.

A testament has three files: `nt.bzs`, for each compressed block its offset, length and unpacked length (4 bytes each),
`nt.bzz`, the blocks (zlib), and `nt.bzv`, for each slot its block (4 bytes), offset (4) and length (2) in it. Slots are
numbered by the module's versification, with slots for introductions to testament, books and chapters.
"""

from __future__ import annotations

import html
import os
import re
import struct
import zlib
from pathlib import Path

from kdbench.errors import AbsentData, KDBenchError
from kdbench.tasks.translation.data.pairs import Splits, clean, sound

FOLDERS = ("/usr/share/sword", "/usr/local/share/sword")
VARIABLE = "SWORD_PATH"  # the SWORD project's own
# module -> its folder, Debian's package, and slots that the others' versification does not have
MODULES = {
    "en": ("engWEB2015eb", "sword-text-web", (8044, 7792)),
    "es": ("spaRV1909eb", "sword-text-sparv", ()),
}
LONGEST = 400  # letters: one entry carries a glossary behind its verse
_NOTE = re.compile(r"<(note|title)\b[^>]*>.*?</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def read(source: str, target: str, root: Path | None = None) -> Splits:
    """The verses of two languages side by side.

    Raises:
        KDBenchError: for a language that has no module, or one that is not here or damaged.
    """
    for language in (source, target):
        if language not in MODULES:
            raise KDBenchError(f"dataset 'sword' has no language {language!r}: its languages are {', '.join(MODULES)}")
    ours, theirs = (_aligned(language, root) for language in (source, target))
    if len(ours) != len(theirs):
        raise KDBenchError(
            f"the texts of {source!r} and {target!r} have {len(ours)} and {len(theirs)} slots, which are not the same "
            "verses: install the versions that docs/translation.md names"
        )
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a and b]
    short = [(a, b) for a, b in both if max(len(a), len(b)) <= LONGEST]
    pairs, left_out = sound(short, target)
    return Splits(pairs, left_out={**left_out, "empty": len(ours) - len(both), "too long": len(both) - len(short)})


def _aligned(language: str, root: Path | None) -> list[str]:
    """A language's slots, without those that others do not have."""
    module, package, dropped = MODULES[language]
    slots = slots_of(_folder(module, package, root))
    return [text for place, text in enumerate(slots) if place not in dropped]


def slots_of(folder: Path) -> list[str]:
    """The plain text of every slot of a module's New Testament, empty where it has none.

    Raises:
        KDBenchError: if a file is absent or damaged.
    """
    try:
        index, blocks, verses = ((folder / f"nt.{kind}").read_bytes() for kind in ("bzs", "bzz", "bzv"))
        unpacked = [zlib.decompress(blocks[at : at + size]) for at, size, _ in struct.iter_unpack("<III", index)]
        found = []
        for block, at, size in struct.iter_unpack("<IIH", verses):
            raw = unpacked[block][at : at + size] if size else b""
            found.append(plain(raw.decode("utf-8")))
    except (OSError, struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
        raise KDBenchError(f"module {str(folder)!r} cannot be read ({error}): install its package anew") from error
    return found


def plain(markup: str) -> str:
    """Text without OSIS markup, notes and headings."""
    return clean(html.unescape(_TAG.sub("", _NOTE.sub(" ", markup))))


def _folder(module: str, package: str, root: Path | None) -> Path:
    named = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    for folder in (*named, *([root / "sword"] if root else []), *map(Path, FOLDERS)):
        found = folder / "modules" / "texts" / "ztext" / module
        if found.is_dir():
            return found
    raise AbsentData(
        f"dataset 'sword' has no module {module!r} here: apt-get install {package}, or name its folder by {VARIABLE}"
    )

"""The names of countries, regions, languages, currencies and scripts in many languages: Debian's package `iso-codes`.

Its catalogues are GNU gettext's `.mo` files, of which Python's gettext reads every message with its translation.
"""

from __future__ import annotations

import gettext
import os
from pathlib import Path

from kdbench.errors import AbsentData, KDBenchError
from kdbench.tasks.translation.data.pairs import Splits, sound

DOMAINS = ("iso_3166-1", "iso_3166-2", "iso_3166-3", "iso_639-2", "iso_639-3", "iso_639-5", "iso_4217", "iso_15924")
FOLDERS = ("/usr/share/locale", "/usr/local/share/locale")
VARIABLE = "KDBENCH_LOCALES"  # another folder of catalogues


def catalogues(language: str, root: Path | None = None) -> list[Path]:
    """The `.mo` files of a language, in the order of `DOMAINS`; none where the package is not here."""
    named = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    for folder in (*named, *([root / "locale"] if root else []), *map(Path, FOLDERS)):
        paths = [folder / language / "LC_MESSAGES" / f"{domain}.mo" for domain in DOMAINS]
        if found := [path for path in paths if path.is_file()]:
            return found
    return []


def messages(path: Path) -> list[tuple[str, str]]:
    """Messages and translations of a catalogue, without its header, contexts and plurals.

    Raises:
        KDBenchError: if it is no catalogue.
    """
    try:
        with path.open("rb") as file:
            found = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]  # no public way to all of it
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise KDBenchError(f"catalogue {str(path)!r} cannot be read ({error}): install iso-codes anew") from error
    plain = [(key, value) for key, value in found.items() if isinstance(key, str) and key and "\x04" not in key]
    return sorted(plain)


def read(target: str, others: tuple[str, ...] = (), root: Path | None = None) -> Splits:
    """English names with their translations; a name that stands in several catalogues is of the first.

    Raises:
        KDBenchError: if a language has no catalogues here.
    """
    train, left_out = _language(target, root)
    extra = [pair for language in others for pair in _language(language, root)[0]]
    return Splits(train, others=extra, left_out=left_out)


def _language(language: str, root: Path | None) -> tuple[list, dict[str, int]]:
    paths = catalogues(language, root)
    if not paths:
        raise AbsentData(
            f"dataset 'iso_codes' has no catalogues of the language {language!r} here: apt-get install iso-codes "
            f"(minimal images drop translations: /etc/dpkg/dpkg.cfg.d), or name a folder of catalogues by {VARIABLE}"
        )
    names: dict[str, str] = {}
    for path in paths:
        for name, translated in messages(path):
            names.setdefault(name, translated)
    return sound(names.items(), language)

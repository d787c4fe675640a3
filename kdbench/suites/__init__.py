"""The suites that kdbench brings, and the table of any suite, as its file has it."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from kdbench.errors import KDBenchError, unknown


def names() -> list[str]:
    """The suites that kdbench brings."""
    return sorted(entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name[-5:] == ".toml")


def read(name_or_path: str) -> dict[str, Any]:
    """The TOML table of a suite that kdbench brings, or of a file.

    Raises:
        KDBenchError: if there is no such suite, or the file is no TOML.
    """
    path = Path(name_or_path)
    if name_or_path.endswith(".toml"):
        if not path.is_file():
            raise KDBenchError(f"suite file {name_or_path!r} does not exist: give the path of a TOML file")
        text = path.read_bytes()
    elif name_or_path in names():
        text = (files(__name__) / f"{name_or_path}.toml").read_bytes()
    else:
        raise unknown("suite", name_or_path, names(), "a file of your own must end in .toml")
    try:
        return tomllib.loads(text.decode())
    except RecursionError:
        raise KDBenchError(
            f"suite {name_or_path!r} is nested too deeply: a suite has tables in tables, no more"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KDBenchError(f"suite {name_or_path!r} is not valid TOML: {error}") from error

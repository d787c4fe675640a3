"""The errors a user can mend: each is one sentence that names the culprit and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# the extra that brings a package which only some of kdbench needs, by the package's name
EXTRAS = {
    "captum": "attribution",
    "transformers": "text",
    "tokenizers": "text",
    "datasets": "text",
    "sentencepiece": "text",
    "sacrebleu": "text",
    "faster_coco_eval": "detection",
}


class KDBenchError(Exception):
    """Bad input. The command line prints the sentence and exits with status 2."""


class AbsentData(KDBenchError):  # noqa: N818  (a state of this machine, not a wrong word)
    """A data set is not on this machine: a run refuses, a plan only cannot tell its cost."""


class NotApplicable(KDBenchError):  # noqa: N818  (a verdict on a cell, not a fault)
    """A method cannot run on this pair; the cell is recorded as `not applicable` with this reason."""


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> KDBenchError:
    """Make the error for a name that does not exist, with the nearest name that does.

    Args:
        kind: what the name should have been, e.g. `"method"`.
        name: what was given.
        known: the names that exist.
        where: how to see them all, e.g. "`kdbench list` shows them".
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known[:12])}{' ...' * (len(known) > 12)}"
    return KDBenchError(f"unknown {kind} {name!r}: {guess}{f' ({where})' if where else ''}")


def explained_absence(who: str, error: ModuleNotFoundError) -> str:
    """`ig_kd needs captum: pip install 'kdbench[attribution]'`; Python's words where no extra brings it."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return f"{type(error).__name__}: {error}"
    return f"{who} needs {package}: pip install 'kdbench[{EXTRAS[package]}]'"

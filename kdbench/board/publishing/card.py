"""The card of a published suite, card.json: what was run, where, when, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from kdbench.board.engines import engines_of
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.records.shape import misfits

VERSION = 2  # of the card's format; 1 had no states but those of records, and no engine
VERSIONS = (1, VERSION)  # that can be read
Card = dict[str, Any]
TEACHER = {"network": str, "seed": int}
WEIGHTS = {"sha256": str, "bytes": int}
SWEEP = {"trials": int, "share": float, "seed": int, "fraction": float}
TUNED = {
    **dict.fromkeys(("dataset", "task", "pair", "student", "label", "name", "family"), str),
    **dict.fromkeys(("protocol", "hyperparameters", "recipe"), dict),
    "trials": int,
}
SHAPE: Card = {  # what must be in a card so that it can be worked with
    "suite": {
        "name": str,
        "description": str,
        "seeds": [int],
        "datasets": [{"name": str, "task": str, "protocol": dict}],
        "pairs": [{"name": str, "student": str, "teacher": TEACHER, "pool": [TEACHER], "assistants": [str]}],
        "methods": [{"name": str, "label": str, "family": str, "hyperparameters": dict}],
        **dict.fromkeys(("recipe", "teacher_recipe", "student_recipes", "teacher_recipes"), dict),
    },
    "left_out": [str],
    **dict.fromkeys(("tables", "records", "teachers"), dict),
}


# of the suite, where it has them
LATER: Card = {"numerics": dict, "teacher_seeds": str, "sweep": SWEEP, "tuned": [TUNED]}
LATER_IN: Card = {"datasets": {"teacher_protocol": dict}, "pairs": {"methods": [str]}, "methods": {"seeds": [int]}}


def make_card(
    suite: Mapping[str, Any],
    records: Sequence[Record],
    left_out: Sequence[str],
    digests: Mapping[str, Mapping[str, Any]],
    states: Mapping[str, int],
    shown: Sequence[str] = (),
) -> Card:
    """The card, made of the files it is about and of nothing else, so that it can be checked.

    Args:
        suite: a `kdbench.board.results.suite_table`.
        records: those that the tables are made of.
        left_out: ids of the records that lie in the folder but not in the tables.
        digests: sha256 by file name, of the `tables`, and by id, of the `records` and `teachers`; and what is known of
            the teachers' `weights`, where there are any (`kdbench.board.publishing.weights`).
        states: how many runs of the suite are in which state.
        shown: labels of the methods that the tables show beside the baselines; none: all.
    """
    provenance = [record["provenance"] for record in records]
    dates = sorted(source["finished_at"] for source in provenance)
    return {
        "card": VERSION,
        "suite": dict(suite),
        "suite_sha256": sha256(_json(suite, indent=None)),
        "counts": {**dict.fromkeys(("done", "failed", "not_applicable"), 0), **states},
        "left_out": sorted(left_out),
        "hardware": _distinct([source["hardware"] for source in provenance]),
        "numerics": _distinct([source["numerics"] for source in provenance]),
        "versions": _distinct([source["versions"] for source in provenance]),
        "engines": engines_of(records),
        "git": _distinct([source["git"] for source in provenance]),
        "dates": {"first": dates[0], "last": dates[-1]},
        **({"shown": list(shown)} if shown else {}),
        **{kind: dict(sorted(files.items())) for kind, files in digests.items()},
    }


def _suite(card: Card) -> Mapping[str, Any]:
    return suite if isinstance(suite := card.get("suite"), dict) else {}


def card_bytes(card: Card) -> bytes:
    return _json(card, indent=1) + b"\n"


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        KDBenchError: if it is absent or no card, or of a newer kdbench.
    """
    again = "make it with `kdbench publish`"
    if not path.is_file():
        raise KDBenchError(f"it does not exist: {again}")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise KDBenchError(f"it cannot be read ({error}): {again}") from error
    version = card.get("card") if isinstance(card, dict) else None
    if version not in VERSIONS:
        raise KDBenchError(f"its format is {version!r}, not {VERSION}: upgrade kdbench, or {again}")
    later = {key: kind for key, kind in LATER.items() if key in _suite(card)}
    shape = {**SHAPE, "suite": {**SHAPE["suite"], **later}}
    if "weights" in card:
        shape["weights"] = dict.fromkeys(card["weights"], WEIGHTS) if isinstance(card["weights"], dict) else dict
    if "shown" in card:
        shape["shown"] = [str]
    for where, rule in chain(misfits(card, shape), _misfits_of_entries(card)):  # entries are there if nothing is wrong
        raise KDBenchError(f"it is no card ({where}: {rule}): {again}")
    return card


def _misfits_of_entries(card: Card) -> Iterator[tuple[str, str]]:
    """What an entry need not have, and what is wrong with it where it has it."""
    for part, kinds in LATER_IN.items():
        for number, entry in enumerate(_suite(card)[part]):
            for key in kinds.keys() & entry.keys():
                yield from misfits(entry[key], kinds[key], f"suite.{part}[{number}].{key}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _distinct(values: Sequence[Any]) -> list[Any]:
    """The different ones, in a fixed order."""
    return [json.loads(text) for text in sorted({json.dumps(value, sort_keys=True) for value in values})]


def _json(value: Any, indent: int | None) -> bytes:
    return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False).encode()

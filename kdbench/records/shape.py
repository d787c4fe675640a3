"""The shape of a record: its keys and their types, whatever task it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Either:
    """A table that has the keys of one of several; what is wrong with another is what is wrong with the first."""

    def __init__(self, *tables: dict[str, Any]) -> None:
        self.tables = tables


STATUSES = ("done", "failed", "not_applicable")
# the keys that every record has, and those of a finished one, with their types
SHAPE: dict[str, Any] = {
    "suite": str,
    "status": str,
    "reason": str,
    "cell": {
        "role": str,
        "dataset": str,
        "task": str,
        "protocol": dict,
        "pair": str,
        "teachers": [{"network": str, "seed": int, "weights": str}],
        "teacher_recipes": [dict],
        "student": str,
        "method": {"name": str, "label": str, "family": str, "hyperparameters": dict, "source": str},
        "seed": int,
        "recipe": Either({"epochs": int}, {"updates": int}),
    },
    "provenance": {
        "versions": dict,
        "hardware": dict,
        "numerics": {"device": str, "precision": str, "compile": bool},
        "git": (str, type(None)),
        "finished_at": str,
    },
}
DONE: dict[str, Any] = {
    "result": {"best_epoch": int, "extra": dict},
    "cost": {"seconds_per_epoch": float},
    "curve": [{"epoch": int, "loss": float, "terms": dict}],
    "teachers": [{"network": str, "seed": int, "weights": str}],
}


_NUMBER = (int, float, type(None))
_TRIALS: dict[str, Any] = {
    "space": dict,
    "trials": [{"values": dict, "id": str, "status": str, "score": _NUMBER, "seconds": _NUMBER}],
    "choice": int,
}
TUNED: dict[str, Any] = {  # what the method of a tuned row has besides
    "tuned": bool,
    "tuning": {
        "rule": str,
        "sweep": {"trials": int, "share": float, "seed": int, "fraction": float},
        "recipe": {**_TRIALS, "values": dict},
        **_TRIALS,
    },
}


def misshapen(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a record has not the shape of one: the key, and what is wrong with it."""
    status = record.get("status")
    yield from misfits(record, {**SHAPE, **(DONE if status == "done" else {})})
    cell = record.get("cell")
    method = cell.get("method") if isinstance(cell, dict) else None
    if isinstance(method, dict) and TUNED.keys() & method.keys():
        yield from misfits(method, TUNED, "cell.method")
    if isinstance(status, str) and status not in STATUSES:
        yield "status", f"{status!r}: it is none of {', '.join(STATUSES)}"


def misfits(value: Any, wanted: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Where a JSON value lacks a key or has one of a wrong type: the key, and what is wrong with it.

    Args:
        wanted: a dict of the keys that must be there, a list of what every item must be, `Either`, or types.
        path: of `value`.
    """
    if isinstance(wanted, Either):
        fits = (table for table in wanted.tables if not any(misfits(value, table)))
        wanted = next(fits, wanted.tables[0])
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            yield path, "it is no table"
            return
        for key, inner in wanted.items():
            where = f"{path}.{key}".lstrip(".")
            if key in value:
                yield from misfits(value[key], inner, where)
            else:
                yield where, "it is missing"
    elif isinstance(wanted, list):
        if not isinstance(value, list):
            yield path, "it is no list"
            return
        for number, item in enumerate(value):
            yield from misfits(item, wanted[0], f"{path}[{number}]")
    else:
        kinds = (int, float) if wanted is float else wanted
        if not isinstance(value, kinds) or (isinstance(value, bool) and wanted is not bool):
            yield path, f"{type(value).__name__} is no type that it can have"
        elif isinstance(value, str) and not _is_text(value):
            yield path, "it holds half a character, which is no text"


def _is_text(value: str) -> bool:
    """Whether text can be written: JSON can spell a lone surrogate, UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

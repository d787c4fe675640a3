"""How many teachers a method sees: none, one, or several; methods are ranked among those that see as many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kdbench.errors import KDBenchError
from kdbench.suites.grid import MethodSpec
from kdbench.suites.members import members_of

CLASSES = {"one": "one teacher", "several": "several teachers", "none": "no teacher"}  # in the order of tables


def class_of(teachers: int) -> str:
    """One of `CLASSES`, of a number of teachers."""
    return "none" if teachers < 1 else "one" if teachers == 1 else "several"


def teachers_of(cell: Mapping[str, Any]) -> int:
    """How many teachers the method of a record's `cell` sees.

    A record says so where they are fewer than its cell names. Records of older versions do not: there the method
    decides, and one that is not at hand counts as seeing those of its cell. Whoever trains on what a teacher wrote has
    seen it.
    """
    method, named = cell["method"], len(cell.get("teachers") or ())
    if "teachers" in method:
        return int(method["teachers"])
    return 0 if named < 2 and _asked_of(method) == "none" else named


def planned_of(method: Mapping[str, Any], pair: Mapping[str, Any]) -> int:
    """The same of a planned cell, from a method and a pair of a `kdbench.board.results.suite_table`."""
    sees = method.get("teachers") or _asked_of(method)
    return {"none": 0, "one": 1}.get(sees, len(pair["pool"]) or 1)


def _asked_of(method: Mapping[str, Any]) -> str:
    return _asked(method["name"], json.dumps(method["hyperparameters"], sort_keys=True))


@lru_cache(maxsize=1024)
def _asked(name: str, hyperparameters: str) -> str:
    """What the method at hand says, for what older versions wrote; `one` if none is at hand."""
    try:
        return members_of(MethodSpec(name, json.loads(hyperparameters))).sees
    except KDBenchError:
        return "one"

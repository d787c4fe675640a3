"""Bounds of hyperparameters whose names mean the same in every method."""

from __future__ import annotations

import re
from typing import Any

# of a name, the rule, and the rule in words
RULES = (
    (re.compile(r"(\w+_)?temperature|tau(_\w+)?"), lambda value: value > 0, "give a number above 0"),
    (re.compile(r"(\w+_)?weight"), lambda value: value >= 0, "give 0 or a number above it"),
    (re.compile(r"\w+_share|label_smoothing"), lambda value: 0 <= value <= 1, "give a number from 0 to 1"),
    (re.compile(r"width|n_\w+"), lambda value: value >= 1, "give at least 1"),
)


def out_of_bounds(key: str, value: Any) -> str:
    """What is wrong with a value, in a few words; nothing if nothing is known to be.

    Args:
        key: the hyperparameter's name; of a composition's (`kd.temperature`) the last part counts.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    name = key.rpartition(".")[2]
    return next((told for names, holds, told in RULES if names.fullmatch(name) and not holds(value)), "")

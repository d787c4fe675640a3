"""Keys that came after results were published: where they have their default they stay out of a cell's config, and so
out of its id, so that what was run before them stays done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

ADDED = "left out where it has its default"  # in a field's metadata


def added(default: Any) -> Any:
    """A field of a suite, recipe, pair, teacher, data set or method that came later than published results."""
    return dataclasses.field(default=default, metadata={ADDED: True})


def plain(value: Any) -> Any:
    """A value as JSON has it: tuples are lists, dataclasses tables without the `added` fields at their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {
            entry.name: own for entry in dataclasses.fields(value) if _said(entry, own := getattr(value, entry.name))
        }
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _said(entry: dataclasses.Field[Any], value: Any) -> bool:
    return not (entry.metadata.get(ADDED) and value == entry.default)

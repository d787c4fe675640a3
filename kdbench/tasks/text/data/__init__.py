"""Data: names of sets of texts, and what the options of a data set may say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.registry.catalogue import TEXTS
from kdbench.tasks.image.data.sources import data_root
from kdbench.tasks.text.data import hub, tables, wordnet
from kdbench.tasks.text.data.sets import TextData, Texts

__all__ = ["TextData", "Texts", "load"]

COMMON = ("length", "tokenizers")  # options of every set
TABLE = ("text", "label", "classes", "metric")
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "wordnet": ("train_samples", "test_samples"),
    "glue": (),
    "table": TABLE,
    "datasets": (*TABLE, "config", "train", "test"),
}
LENGTH = 64  # tokens of a text where a data set does not say


def load(name: str, root: Path | None, options: Mapping[str, Any], download: bool = False) -> TextData:
    """Load a set of texts by name.

    Args:
        name: as `TEXTS` has them.
        root: the data folder (`data_root`).
        options: those of `COMMON` and of the set's kind.
        download: fetch an absent set where `datasets` can.

    Raises:
        KDBenchError: if the set or an option is unknown, or the set absent or damaged.
    """
    kind, _, rest = name.partition(":")
    if kind not in OPTIONS or bool(rest) == (kind == "wordnet"):
        raise unknown("dataset", name, (*TEXTS, *(f"glue:{task}" for task in hub.GLUE)))
    for key, value in options.items():
        if key not in (*COMMON, *OPTIONS[kind]):
            raise unknown("option", key, (*COMMON, *OPTIONS[kind]), f"of dataset {name!r}")
        says, holds = CHECKS[key]
        if not holds(value):
            raise KDBenchError(f"option {key} of dataset {name!r} is {value!r}, but it must be {says}")
    if kind == "wordnet":
        return wordnet.load(data_root(root), options)
    if kind == "glue":
        return hub.load_glue(rest, data_root(root), download)
    if kind == "table":
        return tables.load(name, Path(rest).expanduser(), options)
    return hub.load(rest, options, download)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, str) for each in value)


_COUNT = ("a whole number of at least 1", _is_count)
_LIST = ("a list of names", _is_list)
_NAME: tuple[str, Callable[[Any], bool]] = ("a name", lambda value: isinstance(value, str))
CHECKS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "length": _COUNT,
    "train_samples": _COUNT,
    "test_samples": _COUNT,
    "tokenizers": _LIST,
    "classes": _LIST,
    "text": ("the name of a column, or a list of two", lambda value: isinstance(value, str) or _is_list(value)),
    **dict.fromkeys(("label", "metric", "config", "train", "test"), _NAME),
}

"""Which methods a task's networks can train: what they offer, against what a method needs.

Known without torch, from a class's traits alone, so that lists and a suite's `"all"` can tell. A task that is not named
here (somebody's own) offers whatever is asked: its networks refuse what they lack before training.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from kdbench.errors import NotApplicable, unknown
from kdbench.info import TAPS

# what networks of each task may offer; tests/registry/test_applies.py holds it against networks
OFFERS: Mapping[str, frozenset[str]] = {
    "image": TAPS,
    "text": frozenset({"features", "unpooled", "tokens", "attentions"}),
    "translation": frozenset({"sequences"}),
    "detection": frozenset({"detector"}),
}
# tasks whose networks answer with no distribution over classes
WITHOUT_LOGITS = frozenset({"detection"})


def check_task(task: str) -> None:
    """Refuse a name that is none of the tasks that kdbench brings.

    Raises:
        KDBenchError: naming the nearest one.
    """
    if task not in OFFERS:
        raise unknown("task", task, OFFERS)


def tasks_of(cls: type[Any]) -> list[str]:
    """The tasks that a method applies to, in the order of `OFFERS`."""
    return [task for task in OFFERS if not reason(cls, task)]


def reason(cls: type[Any], task: str) -> str:
    """Why a method does not apply to a task, as part of a sentence; empty where it does.

    Args:
        cls: a registered class, or one of its name and traits that was read from source.
    """
    if task not in OFFERS:
        return ""
    name = cls.info.name
    missing = sorted(cls.needs - OFFERS[task])
    if missing:
        return f"{name} needs {_listed(missing)}, which no network for {task} offers"
    if task in WITHOUT_LOGITS and cls.reads_logits:
        return f"{name} reads logits of one choice among classes, and networks for {task} answer otherwise"
    return exceptions().get(task, {}).get(name, "")


def check(cls: type[Any], task: str) -> None:
    """Refuse a method, or a part of a composition, that does not apply to a task.

    Raises:
        NotApplicable: with the reason.
    """
    for part in getattr(cls, "parts", (cls,)):
        if why := reason(part, task):
            raise NotApplicable(why)


@cache
def exceptions() -> Mapping[str, Mapping[str, str]]:
    """By task and method: why it does not apply, where its traits don't tell."""
    return tomllib.loads((files(__package__) / "applies.toml").read_text(encoding="utf-8"))


def _listed(needs: Iterable[str]) -> str:
    return ", ".join(need.replace("_", " ") for need in needs)

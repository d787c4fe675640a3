"""What a suite may not be, although every key of it is of the right kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.suites.grid import Suite
from kdbench.suites.teacher_seeds import TEACHER_SEEDS

KEPT = ("teachers", "corpora")  # folders that suites share
LONGEST_NAME = 100  # bytes; file systems have 255, of which temporary files need some


def check(suite: Suite) -> None:
    """Refuse a suite that cannot be run, or whose tables could not be read.

    Raises:
        KDBenchError: naming what is wrong.
    """
    _check_task(suite)
    check_seeds(suite.seeds)
    if suite.teacher_seeds not in TEACHER_SEEDS:
        raise unknown("teacher_seeds", str(suite.teacher_seeds), TEACHER_SEEDS, f"of suite {suite.name!r}")
    _check_teachers(suite)
    _check_name(suite)
    for what, entries in (("pair", [str(p) for p in suite.pairs]), ("method", [m.label for m in suite.methods])):
        twice = {entry for entry in entries if entries.count(entry) > 1}
        if twice:
            raise KDBenchError(f"{what} {min(twice)!r} stands twice in suite {suite.name!r}: take one out or name it")
    _check_what_pairs_take(suite)


def _check_name(suite: Suite) -> None:
    if not (isinstance(suite.name, str) and re.fullmatch(r"\w[\w.-]*", suite.name)) or suite.name in KEPT:
        raise KDBenchError(
            f"the suite's name is {suite.name!r}, but it names a folder beside 'teachers' and "
            "'corpora': use letters, digits, _ and -"
        )
    if len(suite.name.encode()) > LONGEST_NAME:
        raise KDBenchError(
            f"the suite's name {suite.name[:20] + '...'!r} has {len(suite.name)} letters, and it names a folder: take "
            f"{LONGEST_NAME} at most"
        )


def _check_task(suite: Suite) -> None:
    tasks = list(dict.fromkeys(dataset.task for dataset in suite.datasets))
    if len(tasks) > 1:
        raise KDBenchError(
            f"the data sets of suite {suite.name!r} are of several tasks ({', '.join(tasks)}), whose scores cannot "
            "stand in one table: write a suite for each"
        )


def _check_teachers(suite: Suite) -> None:
    """A protocol of teachers, where kdbench trains none."""
    trained = any(t.weights == "train" for pair in suite.pairs for t in (pair.teacher, *pair.pool))
    for dataset in suite.datasets:
        if dataset.teacher_protocol is not None and not trained:
            raise KDBenchError(
                f"dataset {dataset.name!r} has a teacher_protocol, but kdbench trains none of the teachers of suite "
                f"{suite.name!r}: take it out"
            )


def _check_what_pairs_take(suite: Suite) -> None:
    known = dict.fromkeys(name for spec in suite.methods for name in (spec.label, spec.name))
    for pair in suite.pairs:
        for name in pair.methods:
            if name not in known:
                raise unknown("method", name, known, f"in methods of pair '{pair}', which takes those of the suite")
        planned = suite.seeds_of(suite.methods_of(pair))
        for seed in pair.seeds:
            if seed not in planned:
                raise KDBenchError(
                    f"seed {seed} of pair '{pair}' is one of no method that runs on it, which have "
                    f"{', '.join(map(str, planned))}: take it out, or give it to a method or the suite"
                )


def check_seeds(seeds: Sequence[Any], owner: str = "") -> None:
    if not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        whose = f" of {owner}" if owner else ""
        raise KDBenchError(f"seeds{whose} are {list(seeds)}: give different whole numbers from 0 up")

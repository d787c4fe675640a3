"""`--teacher NETWORK=FILE`: a checkpoint in place of a teacher that kdbench would train."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from kdbench.errors import KDBenchError, unknown
from kdbench.records.files import read_bytes
from kdbench.suites.grid import Pair, Suite, TeacherSpec
from kdbench.suites.parse import teacher_spec


def with_teachers(suite: Suite, entries: Sequence[str]) -> Suite:
    """The suite whose pairs take these teachers from files; the files' sha256 are part of their cells.

    Args:
        entries: `network=file`, or `network@seed=file` for one of a pool.

    Raises:
        KDBenchError: if an entry is of another form, no pair has that teacher, or its file cannot be read.
    """
    for new in map(teacher_file, entries):
        pairs = tuple(taken(pair, new) for pair in suite.pairs)
        if pairs == suite.pairs:
            known = dict.fromkeys(_name(spec) for pair in suite.pairs for spec in (pair.teacher, *pair.pool))
            raise unknown("teacher", _name(new), known, f"in suite {suite.name!r}")
        suite = dataclasses.replace(suite, pairs=pairs)
    return suite


def teacher_file(entry: str) -> TeacherSpec:
    """The teacher that `network=file` names, with the file's sha256.

    Raises:
        KDBenchError: if the entry is of another form, or its file cannot be read.
    """
    # options of a network have equals signs, too, but in brackets
    brackets = entry.find(")") + 1
    network, equals, file = entry[brackets:].partition("=")
    if not (equals and file and (brackets or network)):
        raise KDBenchError(f"--teacher {entry!r} is not of the form NETWORK=FILE")
    spec = teacher_spec(entry[:brackets] + network)
    if not Path(file).is_file():
        raise KDBenchError(f"--teacher {entry!r}: there is no file {file!r}")
    sha256 = hashlib.sha256(read_bytes(Path(file), "checkpoint")).hexdigest()
    return dataclasses.replace(spec, weights=file, sha256=sha256)


def taken(pair: Pair, new: TeacherSpec) -> Pair:
    """The pair with this teacher wherever it names the same network and seed."""

    def chosen(spec: TeacherSpec) -> TeacherSpec:
        same = (spec.network, spec.seed) == (new.network, new.seed)
        return dataclasses.replace(spec, weights=new.weights, sha256=new.sha256) if same else spec

    return dataclasses.replace(pair, teacher=chosen(pair.teacher), pool=tuple(map(chosen, pair.pool)))


def _name(spec: TeacherSpec) -> str:
    return str(spec) if spec.seed else spec.network

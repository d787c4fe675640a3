"""Which numerics runs were computed in: a row of a table holds one, as it holds one form of its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.board.newest import unlike_newest
from kdbench.records import Record
from kdbench.suites.fixed import shown
from kdbench.suites.grid import digest

DECIDES = ("device", "precision", "compile", "threads", "cuda_graphs")
Used = tuple[tuple[str, Any], ...]  # key of DECIDES, value


def used(record: Record) -> Used:
    """What decides a run's bits on any processor; None for what its record does not say, which is like nothing else."""
    return decisive(dict(record["provenance"]["numerics"]))


def decisive(numerics: Mapping[str, Any]) -> Used:
    """The same, of numerics as a record keeps them."""
    left_out = () if numerics["device"] == "cpu" else ("threads",)  # a host's change no accelerator's result
    found = [(key, numerics.get(key)) for key in DECIDES[:-1] if key not in left_out]
    return (*found, ("cuda_graphs", True)) if numerics.get("cuda_graphs") else tuple(found)


def unlike(mine: Used, theirs: Used) -> tuple[str, str]:
    """Both in words, where they differ; nothing where they do not."""
    a, b = ({"cuda_graphs": False, **dict(side)} for side in (mine, theirs))
    keys = [key for key in DECIDES if a.get(key) != b.get(key)]
    words = (" and ".join(f"{key} {shown(side.get(key))}" for key in keys) for side in (a, b))
    return next(words), next(words)


def row_of(record: Record) -> tuple[str, str, str, str]:
    """The row in which a run's seed is one of several: data set, protocol, pair and the method's label."""
    cell = record["cell"]
    protocols = digest([cell["protocol"], cell.get("teacher_protocol")])
    return cell["dataset"], protocols, cell["pair"], cell["method"]["label"]


def strays(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Finished runs of other numerics than the newest of their row, which it has beside them."""
    return unlike_newest((record for record in records if record["status"] == "done"), row_of, used)


def why(stray: Record, newest: Record) -> str:
    """Why such a run does not count, and what to do about it."""
    mine, theirs = unlike(used(stray), used(newest))
    return (
        f"seed {stray['cell']['seed']} ran with {mine}, the newest of its row with {theirs}: "
        f"delete records/{stray['id']}.json to run it again"
    )

"""Which records belong in a table: those of the grid at hand, and of its methods as they are now."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbench import registry
from kdbench.board import sources
from kdbench.board.numerics import strays, why
from kdbench.board.sources import other_sources
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.registry.digest import source_digest
from kdbench.suites.grid import ENGINE, Cell, digest, engine_of


@dataclass(frozen=True)
class Chosen:
    """What belongs in a table.

    Attributes:
        records: those that do.
        strays: those of another source than their label's newest run, and those whose numerics are not the suite's or
            not those of their row, each with a sentence: their runs count as missing.
    """

    records: list[Record]
    strays: list[tuple[Record, str]]

    @property
    def sentences(self) -> list[str]:
        """The strays, for people."""
        return [f"{r['cell']['method']['label']} on {r['cell']['pair']}: {reason}" for r, reason in self.strays]


def current(records: Sequence[Record], cells: Sequence[Cell]) -> list[Record]:
    """The records that belong in a table of these cells."""
    return choose(records, cells).records


def choose(records: Sequence[Record], cells: Sequence[Cell]) -> Chosen:
    """The records of `cells`, and of other methods that ran at the same points of the grid under the same recipe.

    A method that is registered counts with its present source only; one that is not at hand (it came from a file that
    was not named this time) with that of its newest run: a label stands for one source. Whatever else is in the folder
    (older sources and engines, other recipes) is left out. So are runs of other numerics than the suite fixes, or than
    the newest of their row has.
    """
    planned = {cell.id: cell.fixed for cell in cells}
    points = {_point(cell.config): cell.fixed for cell in cells}
    labels = {cell.method.label for cell in cells}
    chosen: dict[tuple[str, str], Record] = {}
    refused: dict[tuple[str, str], tuple[Record, str]] = {}
    for record in sorted(records, key=lambda r: (r["id"] in planned, r["provenance"]["finished_at"], r["id"])):
        method = record["cell"]["method"]
        point = _point(record["cell"])
        if record["id"] in planned or (point in points and _belongs(record, labels)):
            key, fixed = (point, method["label"]), planned.get(record["id"]) or points[point]
            if reason := fixed.refused(record):
                refused[key] = record, f"seed {record['cell']['seed']} does not count: {reason}"
            else:
                chosen[key] = record
    lost = [stray for key, stray in refused.items() if key not in chosen]
    kept = list(chosen.values())
    for differing, explained in ((other_sources, sources.why), (strays, why)):
        found = [(record, explained(record, newest)) for record, newest in differing(kept)]
        other = {record["id"] for record, _ in found}
        kept, lost = [record for record in kept if record["id"] not in other], lost + found
    return Chosen(kept, lost)


def _point(config: Mapping[str, Any]) -> str:
    """A cell's place in the grid without its method; a pool counts by its first teacher, which every method shares.

    A folder of images is what lies in it: scores on other images do not stand beside these.
    """
    keys = ("role", "dataset", "task", "protocol", "pair", "student", "seed", "recipe")
    first = [config["teachers"][:1], config["teacher_recipes"][:1], config.get("teacher_protocol")]
    return digest([[config[key] for key in keys], first, config.get("data")])


def _belongs(record: Record, planned: Collection[str]) -> bool:
    """Whether a record beside the planned ones stands for itself; a tuned row that is planned was tuned anew since."""
    method = record["cell"]["method"]
    return not (method.get("tuned") and method["label"] in planned) and _is_current(record)


def _is_current(record: Record) -> bool:
    """Whether a record is of this engine, and of its method as it is, where that is at hand."""
    method = record["cell"]["method"]
    if engine_of(record) != ENGINE:
        return False
    try:
        return source_digest(registry.get(method["name"])) == method["source"]
    except KDBenchError:
        return True

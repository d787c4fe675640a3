"""Which records belong in a table: those of the grid at hand, and of its methods as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench import registry
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.registry.digest import source_digest
from kdbench.suites.grid import Cell, digest


def current(records: Sequence[Record], cells: Sequence[Cell]) -> list[Record]:
    """The records of `cells`, and of other methods that ran at the same points of the grid under the same recipe.

    A method that is registered counts with its present source only; one that is not at hand (it came from a file that
    was not named this time) with its latest. Whatever else is in the folder (older sources, other recipes) is left out.
    """
    planned = {cell.id for cell in cells}
    points = {_point(cell.config) for cell in cells}
    chosen: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda r: (r["id"] in planned, r["provenance"]["finished_at"], r["id"])):
        method = record["cell"]["method"]
        point = _point(record["cell"])
        if record["id"] in planned or (point in points and _is_current(method["name"], method["source"])):
            chosen[point, method["label"]] = record
    return list(chosen.values())


def _point(config: Mapping[str, Any]) -> str:
    """A cell's place in the grid without its method; a pool counts by its first teacher, which every method shares.

    A folder of images is what lies in it: scores on other images do not stand beside these.
    """
    keys = ("role", "dataset", "task", "protocol", "pair", "student", "seed", "recipe")
    first = [config["teachers"][:1], config["teacher_recipes"][:1]]
    return digest([[config[key] for key in keys], first, config.get("data")])


def _is_current(name: str, source: str) -> bool:
    try:
        return source_digest(registry.get(name)) == source
    except KDBenchError:
        return True

"""Which records belong in a table: those of the grid at hand, and of its methods as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from kdbench import registry
from kdbench.board import sources
from kdbench.board.numerics import strays, why
from kdbench.board.recipes import other_recipes
from kdbench.board.sources import other_sources
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.registry.digest import source_digest
from kdbench.suites.grid import ENGINE, Cell, TeacherSpec, digest, engine_of
from kdbench.suites.recipe import Recipe

OLDER_SOURCE, OTHER_ENGINE = "older_source", "other_engine"  # states of a run that was made and does not count


class Stray(NamedTuple):
    """A run at a point of the grid that does not count.

    Attributes:
        reason: why, in a sentence.
        state: what the run is in the tables.
    """

    record: Record
    reason: str
    state: str = "missing"


@dataclass(frozen=True)
class Chosen:
    """What belongs in a table.

    Attributes:
        records: those that do.
        strays: those of another source than their label's newest run (or, of a method that is at hand, than its present
            one), of another engine, and those whose numerics are not the suite's or not those of their row.
        remarks: sentences about records at these places that are of another recipe.
    """

    records: list[Record]
    strays: list[Stray]
    remarks: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """The strays, for people; those of a state of their own are counted by it."""
        found = [(stray.record["cell"], stray.reason) for stray in self.strays if stray.state == "missing"]
        return [f"{cell['method']['label']} on {cell['pair']}: {reason}" for cell, reason in found]


def current(records: Sequence[Record], cells: Sequence[Cell]) -> list[Record]:
    """The records that belong in a table of these cells."""
    return choose(records, cells).records


def choose(records: Sequence[Record], cells: Sequence[Cell]) -> Chosen:
    """The records of `cells`, and of other methods that ran at the same points of the grid under the same recipe.

    A method that is registered counts with its present source only; one that is not at hand (it came from a file that
    was not named this time) with that of its newest run: a label stands for one source. Runs of older sources, and of
    another engine, are strays with a state of their own where nothing newer is in their place. Runs of other numerics
    than the suite fixes, or than the newest of their row has, are missing. What is of another recipe is only told of.
    """
    planned = {cell.id: cell.fixed for cell in cells}
    points = {point_of(cell.config): cell.fixed for cell in cells}
    labels = {cell.method.label for cell in cells}
    chosen: dict[tuple[str, str], Record] = {}
    refused: dict[tuple[str, str], Stray] = {}
    outdated: dict[tuple[str, str], Stray] = {}
    elsewhere: list[Record] = []
    for record in sorted(records, key=lambda r: (r["id"] in planned, r["provenance"]["finished_at"], r["id"])):
        point, method = point_of(record["cell"]), record["cell"]["method"]
        key = point, method["label"]
        if record["id"] not in planned and point not in points:
            elsewhere.append(record)
        elif record["id"] not in planned and method.get("tuned") and method["label"] in labels:
            continue  # the row was tuned anew since
        elif record["id"] not in planned and (stray := _outdated(record)):
            outdated[key] = stray
        elif reason := (planned.get(record["id"]) or points[point]).refused(record):
            refused[key] = Stray(record, f"seed {record['cell']['seed']} does not count: {reason}")
        else:
            chosen[key] = record
    lost = [stray for key, stray in {**outdated, **refused}.items() if key not in chosen]
    kept = list(chosen.values())
    for differing, explained in ((other_sources, sources.why), (strays, why)):
        found = [Stray(record, explained(record, newest)) for record, newest in differing(kept)]
        other = {stray.record["id"] for stray in found}
        kept, lost = [record for record in kept if record["id"] not in other], lost + found
    return Chosen(kept, lost, other_recipes(elsewhere, cells))


def point_of(config: Mapping[str, Any]) -> str:
    """A cell's place in the grid without its method; a pool counts by its first teacher, which every method shares.

    A folder of images is what lies in it: scores on other images do not stand beside these. A key that has its default
    counts as absent, so that records from before the key was invented keep their place.
    """
    keys = ("role", "dataset", "task", "protocol", "pair", "student", "seed")
    first = [
        *(asked(teacher, TeacherSpec) for teacher in config["teachers"][:1]),
        *(asked(recipe, Recipe) for recipe in config["teacher_recipes"][:1]),
    ]
    own = [asked(config["recipe"], Recipe), first, config.get("teacher_protocol"), config.get("data")]
    return digest([[config[key] for key in keys], *own])


def asked(table: Mapping[str, Any], of: type) -> dict[str, Any]:
    """What a table of a dataclass's fields says beside its defaults."""
    defaults = {entry.name: entry.default for entry in fields(of)}
    return {key: value for key, value in table.items() if key not in defaults or _listed(defaults[key]) != value}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _outdated(record: Record) -> Stray | None:
    """A run that something newer has to replace; None if it is none."""
    method = record["cell"]["method"]
    if (engine := engine_of(record)) not in (ENGINE, None):
        return Stray(record, f"run by engine {engine}: run again", OTHER_ENGINE)
    try:
        present = source_digest(registry.get(method["name"]))
    except KDBenchError:  # it came from a file that was not named this time
        return None
    if present == method["source"]:
        return None
    return Stray(record, f"run with an older source of {method['name']}: run again", OLDER_SOURCE)

"""What a published suite keeps of its sweep: the rows that were tuned, and the records of the trials that they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.board.publishing.merge import Entry, entries, unite
from kdbench.board.runs import protocol_of
from kdbench.board.sweeps.kept import saved
from kdbench.board.sweeps.state import Sweeping
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.suites.grid import Cell, Suite, plain
from kdbench.suites.sweep import Sweep
from kdbench.suites.trials import FOLDER

CARD = "sweep"  # the card's key: the digest of each trial's record


@dataclass(frozen=True)
class Swept:
    """A suite's sweep in the folders at hand.

    Attributes:
        sweep: how its trials were made; None without one.
        trials: their records, by id.
        cells: those that train the choices of methods of the suite, if at least one of them has a record.
    """

    sweep: Sweep | None
    trials: Mapping[str, Entry]
    cells: Sequence[Cell]

    def used(self, records: Iterable[Record]) -> dict[str, Entry]:
        """The trials that records of tuned rows name, by id.

        Raises:
            KDBenchError: if one is not there.
        """
        wanted = sorted({identity for record in records for identity in trials_named(record)})
        lost = [identity for identity in wanted if identity not in self.trials]
        if lost:
            raise KDBenchError(
                f"trial {lost[0]!r}, by which a tuned row's settings were chosen, has no record: bring the folder "
                "where it ran in by `kdbench merge`"
            )
        return {identity: self.trials[identity] for identity in wanted}


def gather(suite: Suite, folders: Sequence[Path], there: Iterable[str]) -> Swept:
    """The sweep of a suite whose records lie in several folders; the first that has one says how it was made.

    Args:
        folders: of the suite.
        there: ids of the suite's records.
    """
    sweep = next((found for folder in folders if (found := saved(folder))), None)
    trials = unite(entry for folder in reversed(folders) for entry in entries(folder / FOLDER / "records"))
    if sweep is None:
        return Swept(None, trials, ())

    def read(identity: str) -> Record | None:
        entry = trials.get(identity)
        return entry.record if entry and not suite.numerics.refused(entry.record) else None

    cells, known = Sweeping(suite, sweep, read).cells(), set(there)
    labels = {cell.method.label for cell in cells if cell.id in known}
    return Swept(sweep, trials, [cell for cell in cells if cell.method.label in labels])


def trials_named(record: Record) -> list[str]:
    """The ids of the trials that a tuned record names; none of another record."""
    tuning = record["cell"]["method"].get("tuning") or {}
    parts = (tuning.get("recipe") or {}, tuning)
    return [trial["id"] for part in parts for trial in part.get("trials") or ()]


def with_rows(table: Mapping[str, Any], sweep: Sweep | None, records: Iterable[Record]) -> dict[str, Any]:
    """The suite's table (`kdbench.board.results.suite_table`) with its tuned rows: one for each label and place."""
    rows = {(row["label"], row["dataset"], protocol_of(row), row["pair"]): row for row in _rows(records)}
    kept = {key: value for key, value in table.items() if key not in ("sweep", "tuned")}
    if not rows or sweep is None:
        return kept
    return {**kept, "sweep": sweep.table, "tuned": [rows[key] for key in sorted(rows)]}


def _rows(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    for record in records:
        cell, method = record["cell"], record["cell"]["method"]
        if method.get("tuned"):
            keys = ("dataset", "task", "protocol", "teacher_protocol", "pair", "student")
            of_cell = {key: cell[key] for key in keys if key in cell}  # type: ignore[literal-required]
            own = {key: method[key] for key in ("label", "name", "family", "hyperparameters")}  # type: ignore[literal-required]
            tuning = method.get("tuning") or {}
            recipe = (tuning.get("recipe") or {}).get("values") or {}
            yield plain({**of_cell, **own, "recipe": recipe, "trials": len(tuning.get("trials") or ())})

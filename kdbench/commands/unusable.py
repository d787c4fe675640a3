"""What a command says of records that it cannot use: their names, and how many; it shows the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kdbench.board.select import choose
from kdbench.board.usable import set_aside_damaged, sound_record, usable
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store
from kdbench.records.plain import plain
from kdbench.suites.grid import Cell

SHOWN = 5  # sentences; more records than that are counted


def records_of(store: Store) -> list[Record]:
    """The records that can be used; the others are named on standard error."""
    records, said = usable(store.paths())
    tell(said)
    return records


def counted(store: Store, cells: Sequence[Cell]) -> list[Record]:
    """The records that belong in a table of these cells; those of other numerics are named as well."""
    chosen = choose(records_of(store), cells)
    tell(chosen.sentences)
    return chosen.records


def tell(said: Sequence[str]) -> None:
    """Name records that are left out."""
    for sentence in said[:SHOWN]:
        print(f"kdbench: {plain(sentence)}", file=sys.stderr)
    if said:
        more = f", the first {SHOWN} of them named above" if len(said) > SHOWN else ""
        print(f"kdbench: {len(said)} record{'s' * (len(said) > 1)} left out of what is shown{more}", file=sys.stderr)


def undone(store: Store, cells: Sequence[Cell]) -> list[str]:
    """A sentence about each of the cells that no run trains, for it has a record which cannot be used."""
    said = []
    for cell in cells:
        if store.has(cell.id):
            try:
                sound_record(store.path(cell.id))
            except KDBenchError as error:
                said.append(f"{cell.method.label} on {cell.pair}, seed {cell.seed}, stays undone: {error}")
    return said


def clear_away(store: Store) -> None:
    """Put what is no record aside, so that a run makes it again, and say so."""
    for sentence in set_aside_damaged(store):
        print(f"kdbench: {plain(sentence)}", file=sys.stderr)

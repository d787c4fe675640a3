"""A choice that is the suite's own setting needs no training of its own."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.records import Store
from kdbench.suites.fixed import refusal
from kdbench.suites.grid import Cell, identity


def twins(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Tuned cells, by id, with the one of the cells that trains the same by the suite's own setting."""
    plain = {cell.id: cell for cell in cells if cell.tuning is None}
    found = {cell.id: plain.get(_untuned(cell)) for cell in cells if cell.tuning is not None}
    return {tuned: cell for tuned, cell in found.items() if cell is not None}


def _untuned(cell: Cell) -> str:
    method = {key: value for key, value in cell.config["method"].items() if key != "tuned"}
    return identity({**cell.config, "method": method})


def copy_records(cells: Sequence[Cell], store: Store) -> None:
    """Give each tuned cell that has a twin the twin's record: the result would be the same to the bit."""
    same = twins(cells)
    for cell in cells:
        twin = same.get(cell.id)
        if twin is None or not store.has(twin.id) or refusal(store, twin):
            continue
        record = store.read(twin.id)
        if not store.has(cell.id) or store.read(cell.id)["status"] != record["status"]:
            store.write({**record, "id": cell.id, "cell": cell.config})

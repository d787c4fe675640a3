"""Records: what a cell leaves behind, one JSON file each, written so that a kill never leaves half a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdbench.records import checkpoints
from kdbench.records.files import unreadable, write_atomically
from kdbench.records.reading import SCHEMA, migrated, read_record

if TYPE_CHECKING:
    import torch  # records are read without it: it takes a second to import

Record = dict[str, Any]
Tell = Callable[[str], None]
T = TypeVar("T")


class Store:
    """The folder of one suite's results: `records/`, `checkpoints/`, and the tables beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records"
        self.checkpoints = folder / "checkpoints"

    def writable(self) -> None:
        """Fail now, not after the first epoch, if nothing can be written here."""
        probe = self.records / ".writable"
        write_atomically(probe, b"")
        probe.unlink()
        for stale in (*self.records.glob("*.partial"), *self.checkpoints.glob(".*.partial")):
            stale.unlink(missing_ok=True)  # a killed run's half-written files

    def has(self, identity: str) -> bool:
        return (self.records / f"{identity}.json").exists()

    def write(self, record: Record) -> None:
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(self.records / f"{record['id']}.json", text.encode())
        if record["status"] != "failed":  # a failed one goes on from there if it is tried again
            checkpoints.forget(self.checkpoints, record["id"])

    def read(self, identity: str) -> Record:
        return read_record(self.records / f"{identity}.json")

    def all(self) -> list[Record]:
        """Every record, in order of file name."""
        return [read_record(path) for path in self.paths()]

    def paths(self) -> list[Path]:
        """The files of records, in order of their names.

        Raises:
            Unreadable: if the folder cannot be looked into.
        """
        try:
            return sorted(self.records / name for name in os.listdir(self.records) if name.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise unreadable(self.records, "folder", error) from error

    def save_checkpoint(self, identity: str, state: dict[str, Any]) -> None:
        checkpoints.save(self.checkpoints, identity, state)

    def restore(self, identity: str, device: torch.device, use: Callable[[dict[str, Any]], T], tell: Tell) -> T | None:
        """What `use` makes of a cell's newest sound checkpoint, as `kdbench.records.checkpoints.restore`."""
        return checkpoints.restore(self.checkpoints, identity, device, use, tell)


__all__ = ["SCHEMA", "Record", "Store", "Tell", "migrated", "read_record"]

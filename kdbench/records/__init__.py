"""Records: what a cell leaves behind, one JSON file each, written so that a kill never leaves half a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdbench.records import checkpoints
from kdbench.records.files import unreadable, write_atomically
from kdbench.records.reading import migrated, read_record
from kdbench.records.types import SCHEMA, CellConfig, Cost, MethodConfig, Provenance, Record, Scores, TeacherConfig

if TYPE_CHECKING:
    import torch  # records are read without it: it takes a second to import

Tell = Callable[[str], None]
T = TypeVar("T")


class Store:
    """The folder of one suite's results: `records/`, `checkpoints/`, and the tables beside them.

    Nobody else knows where a record or a checkpoint lies. No question changes anything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = folder / "records"
        self._checkpoints = folder / "checkpoints"

    def writable(self) -> None:
        """Fail now, not after the first epoch, if nothing can be written here; half-written files go.

        Raises:
            KDBenchError: if the disk is full or the folder cannot be written.
        """
        probe = self._records / ".writable"
        write_atomically(probe, b"")
        probe.unlink()
        for stale in (*self._records.glob("*.partial"), *self._checkpoints.glob(".*.partial")):
            stale.unlink(missing_ok=True)  # a killed run's half-written files

    # ------------------------------------------------------------------------------------------ records

    def path(self, identity: str) -> Path:
        """A cell's record file, whether it is there or not."""
        return self._records / f"{identity}.json"

    def weights(self, identity: str) -> Path:
        """The file of a trained teacher's weights, whether it is there or not."""
        return self.folder / "weights" / f"{identity}.safetensors"

    def student(self, identity: str) -> Path:
        """The file of the network that a cell deploys, whether it is kept or not."""
        return self.folder / "students" / f"{identity}.safetensors"

    def beside(self, name: str) -> Path:
        """Where a table that is made of the records lies."""
        return self.folder / name

    def has(self, identity: str) -> bool:
        """Whether the cell has a record, of whatever status."""
        return self.path(identity).exists()

    def write(self, record: Record) -> None:
        """Keep a record; the cell's checkpoint is not needed any more and goes.

        Raises:
            KDBenchError: if the disk is full or the folder cannot be written.
        """
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.path(record["id"]), text.encode())
        if record["status"] != "failed":  # a failed one goes on from there if it is tried again
            checkpoints.forget(self._checkpoints, record["id"])

    def forget(self, identity: str) -> None:
        """Delete a cell's record, if it has one, so that the cell runs again."""
        self.path(identity).unlink(missing_ok=True)

    def read(self, identity: str) -> Record:
        """A cell's record, as `read_record` reads it."""
        return read_record(self.path(identity))

    def all(self) -> list[Record]:
        """Every record, in order of file name."""
        return [read_record(path) for path in self.paths()]

    def paths(self) -> list[Path]:
        """The files of records, in order of their names.

        Raises:
            Unreadable: if the folder cannot be looked into.
        """
        try:
            return sorted(self._records / name for name in os.listdir(self._records) if name.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise unreadable(self._records, "folder", error) from error

    # ------------------------------------------------------------------------------------------ checkpoints

    def interrupted(self, identity: str) -> bool:
        """Whether the cell has begun and has no record yet: it trains now, or a run was stopped."""
        return not self.has(identity) and any(map(os.path.lexists, checkpoints.places(self._checkpoints, identity)))

    def epochs_done(self, identity: str) -> int:
        """After how many epochs the cell's last checkpoint was written; 0 where there is none that says so."""
        return checkpoints.epoch_of(self._checkpoints, identity)

    def save_checkpoint(self, identity: str, state: dict[str, Any]) -> None:
        """Keep a state from which the cell can go on.

        Raises:
            KDBenchError: if the disk is full or the folder cannot be written.
        """
        checkpoints.save(self._checkpoints, identity, state)

    def restore(self, identity: str, device: torch.device, use: Callable[[dict[str, Any]], T], tell: Tell) -> T | None:
        """What `use` makes of a cell's newest sound checkpoint, as `kdbench.records.checkpoints.restore`."""
        return checkpoints.restore(self._checkpoints, identity, device, use, tell)


def stores(out: Path) -> list[Store]:
    """The stores in a results folder, the teachers' among them, in order of name."""
    return [Store(folder.parent) for folder in sorted(out.glob("*/records"))]


__all__ = [
    "SCHEMA", "CellConfig", "Cost", "MethodConfig", "Provenance", "Record", "Scores", "Store", "TeacherConfig", "Tell",
    "migrated", "read_record", "stores",
]  # fmt: skip

"""Records: what a cell leaves behind, one JSON file each, written so that a kill never leaves half a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kdbench.errors import KDBenchError
from kdbench.records.files import write_atomically
from kdbench.records.types import SCHEMA, CellConfig, Cost, MethodConfig, Provenance, Record, Scores, TeacherConfig

if TYPE_CHECKING:
    import torch  # records are read without it: it takes a second to import


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
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        write_atomically(self.path(record["id"]), text.encode())
        self._checkpoint(record["id"]).unlink(missing_ok=True)

    def forget(self, identity: str) -> None:
        """Delete a cell's record, if it has one, so that the cell runs again."""
        self.path(identity).unlink(missing_ok=True)

    def read(self, identity: str) -> Record:
        """A cell's record, as `read_record` reads it."""
        return read_record(self.path(identity))

    def all(self) -> list[Record]:
        """Every record, in order of file name."""
        return [read_record(path) for path in sorted(self._records.glob("*.json"))]

    # ------------------------------------------------------------------------------------------ checkpoints

    def _checkpoint(self, identity: str) -> Path:
        return self._checkpoints / f"{identity}.pt"

    def interrupted(self, identity: str) -> bool:
        """Whether the cell has begun and has no record yet: it trains now, or a run was stopped."""
        return self._checkpoint(identity).exists() and not self.has(identity)

    def save_checkpoint(self, identity: str, state: dict[str, Any]) -> None:
        """Keep a state from which the cell can go on.

        Raises:
            KDBenchError: if the disk is full or the folder cannot be written.
        """
        import torch

        buffer = io.BytesIO()  # in memory first, so that a full disk shows as the file's error and not as torch's
        torch.save(state, buffer)
        write_atomically(self._checkpoint(identity), buffer.getbuffer())

    def load_checkpoint(self, identity: str, device: torch.device) -> dict[str, Any] | None:
        """The last state a killed run left, or None. Loads data only, never code.

        Raises:
            KDBenchError: naming the file, if it is damaged.
        """
        import torch

        path = self._checkpoint(identity)
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise KDBenchError(
                f"checkpoint {str(path)!r} is damaged: delete it and run again, that cell starts over"
            ) from error


def stores(out: Path) -> list[Store]:
    """The stores in a results folder, the teachers' among them, in order of name."""
    return [Store(folder.parent) for folder in sorted(out.glob("*/records"))]


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        KDBenchError: naming the file, if it is no record or a newer kdbench wrote it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not {"id", "status", "cell", "schema"} <= record.keys():
            raise ValueError("keys are missing")
        if record["id"] != path.stem:
            raise ValueError(f"it says id {record['id']!r}")
        if not isinstance(record["schema"], int) or not isinstance(record["cell"], dict):
            raise ValueError("its schema or cell has a wrong type")
    except (OSError, ValueError) as error:
        raise KDBenchError(
            f"record {str(path)!r} is damaged ({error}): delete it and run again, only that cell starts over"
        ) from error
    if record["schema"] > SCHEMA:
        raise KDBenchError(f"record {str(path)!r} was written by a newer kdbench: upgrade kdbench to read it")
    return migrated(record)


def migrated(record: dict[str, Any]) -> Record:
    """A record of an older version with today's keys; what was not measured then is None."""
    if record["schema"] < 2 and record["status"] == "done":  # 1 had no calibration, energy and latency
        record["result"] = {"ece": None, "reliability": None, **record["result"]}
        new = dict.fromkeys(("joules_per_epoch", "latency_ms_batch1", "latency_ms_batch128"))
        record["cost"] = {**new, **record["cost"]}
    return cast(Record, {**record, "schema": SCHEMA})


__all__ = [
    "SCHEMA", "CellConfig", "Cost", "MethodConfig", "Provenance", "Record", "Scores", "Store", "TeacherConfig",
    "migrated", "read_record", "stores",
]  # fmt: skip

"""Records: what a cell leaves behind, one JSON file each, written so that a kill never leaves half a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import KDBenchError
from kdbench.records.files import write_atomically

SCHEMA = 2
Record = dict[str, Any]


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
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.records / f"{record['id']}.json", text.encode())
        (self.checkpoints / f"{record['id']}.pt").unlink(missing_ok=True)

    def read(self, identity: str) -> Record:
        return read_record(self.records / f"{identity}.json")

    def all(self) -> list[Record]:
        """Every record, in order of file name."""
        return [read_record(path) for path in sorted(self.records.glob("*.json"))]

    def save_checkpoint(self, identity: str, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()  # in memory first, so that a full disk shows as the file's error and not as torch's
        torch.save(state, buffer)
        write_atomically(self.checkpoints / f"{identity}.pt", buffer.getbuffer())

    def load_checkpoint(self, identity: str, device: torch.device) -> dict[str, Any] | None:
        """The last state a killed run left, or None. Loads data only, never code."""
        path = self.checkpoints / f"{identity}.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise KDBenchError(
                f"checkpoint {str(path)!r} is damaged: delete it and run again, that cell starts over"
            ) from error


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


def migrated(record: Record) -> Record:
    """A record of an older version with today's keys; what was not measured then is None."""
    if record["schema"] < 2 and record["status"] == "done":  # 1 had no calibration, energy and latency
        record["result"] = {"ece": None, "reliability": None, **record["result"]}
        new = dict.fromkeys(("joules_per_epoch", "latency_ms_batch1", "latency_ms_batch128"))
        record["cost"] = {**new, **record["cost"]}
    return {**record, "schema": SCHEMA}

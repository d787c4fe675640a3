"""Reading records: whole, of the right shape, or said why not; nobody is told to delete what may be good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from kdbench.errors import KDBenchError
from kdbench.records.files import read_bytes
from kdbench.records.shape import misshapen
from kdbench.records.types import SCHEMA, Record

AGAIN = "`kdbench run` puts it into records/damaged and runs its cell again"


class Damaged(KDBenchError):  # noqa: N818  (a state of the file)
    """A file that is no record: garbage, or what no kdbench wrote."""


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        Damaged: naming the file and what is wrong with it.
        Unreadable: if the operating system does not give it.
        KDBenchError: if a newer kdbench wrote it.
    """
    content = read_bytes(path, "record")
    try:
        record = json.loads(content.decode())
        _check_head(record, path)
    except RecursionError:
        raise damaged(path, "its lists or tables are nested without end") from None
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if record["schema"] > SCHEMA:
        raise KDBenchError(f"record {str(path)!r} was written by a newer kdbench: upgrade kdbench to read it")
    for where, rule in misshapen(record):
        raise damaged(path, f"{where}: {rule}")
    return migrated(record)


def damaged(path: Path, why: str) -> Damaged:
    """The sentence about a file that is no record."""
    return Damaged(f"record {str(path)!r} is damaged ({why}): {AGAIN}")


def migrated(record: dict[str, Any]) -> Record:
    """A record of an older version with today's keys; what was not measured then is None."""
    if record["schema"] < 2 and record["status"] == "done":  # 1 had no calibration, energy and latency
        record["result"] = {"ece": None, "reliability": None, **record["result"]}
        new = dict.fromkeys(("joules_per_epoch", "latency_ms_batch1", "latency_ms_batch128"))
        record["cost"] = {**new, **record["cost"]}
    return cast(Record, {**record, "schema": SCHEMA})


def _check_head(record: Any, path: Path) -> None:
    if not isinstance(record, dict) or not {"id", "status", "cell", "schema"} <= record.keys():
        raise ValueError("keys are missing")
    if record["id"] != path.stem:
        raise ValueError(f"it says id {record['id']!r}")
    if type(record["schema"]) is not int or record["schema"] < 1:
        raise ValueError(f"schema: {record['schema']!r}: there is no such version of records")

"""The table of runs: records in, a row a cell out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdbench.board import comparable
from kdbench.records import Record

PLACE = ["dataset", "protocol", "pair"]
GROUP = [*PLACE, "method"]
RESULT = ("top1", "top5", "nll", "ece", "best_top1", "best_epoch", "agreement", "kl_to_teacher")
COST = (
    "seconds_per_epoch",
    "own_seconds_per_epoch",
    "joules_per_epoch",
    "peak_memory_mb",
    "extra_parameters",
    "student_parameters",
    "deployed_parameters",
    "deployed_macs",
    "latency_ms_batch1",
    "latency_ms_batch128",
)


def runs_table(records: Sequence[Record], expected: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """A row a cell, missing ones included.

    Args:
        records: of one suite.
        expected: the grid's cells, with `suite`, `dataset`, `protocol`, `pair`, `student`, `label`, `name`, `family`
            and `seed`; those without a record get a row with status `missing`.
    """
    rows = [_run_row(record) for record in records]
    known = {_key(row) for row in rows}
    rows += [row for cell in expected if _key(row := _missing_row(cell)) not in known]
    extras = sorted({column for row in rows for column in row if column.startswith("extra.")})
    columns = ["suite", *GROUP, "name", "family", "seed", "status", "reason", "teacher", "teacher_top1", "student"]
    columns += [*RESULT, *COST, *extras, "device", "precision", "compile", "id"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.sort_values(["suite", *GROUP, "seed", "id"], kind="stable", ignore_index=True)
    frame.attrs[comparable.KEY] = comparable.teachers_of(records)
    return frame


def protocol_text(protocol: Mapping[str, Mapping[str, Any]]) -> str:
    """`clean`, or e.g. `label_noise(kind=symmetric, rate=0.4)`."""
    parts = []
    for name, options in sorted(protocol.items()):
        inside = ", ".join(f"{key}={options[key]}" for key in sorted(options))
        parts.append(f"{name}({inside})")
    return " + ".join(parts) or "clean"


def place_name(place: Sequence[Any]) -> str:
    """`cifar100, A -> B`; the protocol stands between them if there is one."""
    return ", ".join(str(part) for part in place if part != "clean")


def _run_row(record: Record) -> dict[str, Any]:
    cell, numerics = record["cell"], record["provenance"]["numerics"]
    result, cost = record.get("result") or {}, record.get("cost") or {}
    teachers = record.get("teachers") or []
    row = {
        "suite": record["suite"],
        "dataset": cell["dataset"],
        "protocol": protocol_text(cell["protocol"]),
        "pair": cell["pair"],
        "method": cell["method"]["label"],
        "name": cell["method"]["name"],
        "family": cell["method"]["family"],
        "seed": cell["seed"],
        "status": record["status"],
        "reason": record["reason"],
        "teacher": " + ".join(f"{t['network']}@{t['seed']}" for t in cell["teachers"]),
        "teacher_top1": teachers[0]["top1"] if teachers else None,
        "student": cell["student"],
        "device": numerics["device"],
        "precision": numerics["precision"],
        "compile": numerics["compile"],
        "id": record["id"],
    }
    row |= {name: result.get(name) for name in RESULT} | {name: cost.get(name) for name in COST}
    return row | {f"extra.{name}": value for name, value in (result.get("extra") or {}).items()}


def _missing_row(cell: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: cell.get(name) for name in ("suite", "dataset", "pair", "student", "name", "family", "seed")}
    text = protocol_text(cell["protocol"])
    return {**kept, "protocol": text, "method": cell["label"], "status": "missing", "reason": "", "id": ""}


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row[name] for name in (*GROUP, "seed")])

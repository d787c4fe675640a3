"""The table of runs: records in, one row per cell out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from kdbench.board import comparable
from kdbench.board.columns import as_filed, metrics_of
from kdbench.board.seen import teachers_of
from kdbench.records import Record
from kdbench.records.step_times import time_ratio
from kdbench.suites.grid import engine_of
from kdbench.tasks.metrics import Metrics

PLACE = ["dataset", "protocol", "pair"]
GROUP = [*PLACE, "method"]
UNTIMED = "untimed"  # why a run has no ratio of time
TRIALS = ["trials", "trial_seconds"]  # columns that are there where a row is tuned
CORPUS = "corpus_seconds"  # and where one trained on a corpus that a teacher wrote
SOMETIMES = (*TRIALS, CORPUS)
COST = (
    "seconds_per_epoch",
    "own_seconds_per_epoch",
    "time_ratio_to_student",
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
    """One row per cell, missing ones included.

    A method that the grid does not name is held against the points that all methods of the grid have (where there is no
    grid: against all points of the records); those that it lacks are missing as well.

    Args:
        records: of one suite.
        expected: the grid's cells (`kdbench.board.results.grid_rows`); those without a record get a row with their
            `state`, or else with status `missing`.

    Raises:
        KDBenchError: if their task is unknown, or they are of several.
    """
    expected = list(expected)
    metrics = metrics_of(records, expected)
    rows = [_run_row(record, metrics) for record in records]
    known = {_key(row) for row in rows}
    rows += [row for cell in expected if _key(row := _missing_row(cell)) not in known]
    rows += _gaps(rows, {cell["label"] for cell in expected if "state" not in cell})
    extras = sorted({column for row in rows for column in row if column.startswith("extra.")})
    columns = ["suite", *GROUP, "name", "family", "teachers", "seed", "status", "reason"]
    columns += ["teacher", "teacher_score", "student"]
    columns += [*result_columns(metrics), *COST, UNTIMED, *extras]
    columns += ["device", "precision", "compile", "threads", "engine", "id"]
    columns += [name for name in SOMETIMES if any(name in row for row in rows)]
    frame = as_filed(pd.DataFrame(rows, columns=columns), metrics)
    frame = frame.sort_values(["suite", *GROUP, "seed", "id"], kind="stable", ignore_index=True)
    frame.attrs |= comparable.seen_of(records)
    return frame


def result_columns(metrics: Metrics) -> list[str]:
    """What a run scored, in the order of the columns: `score`, `best_score` and `best_epoch` among the others."""
    own, of_teacher = ([metric.name for metric in part] for part in (metrics.own, metrics.of_teacher))
    return ["score", *own, "best_score", "best_epoch", *of_teacher]


def protocol_text(protocol: Mapping[str, Mapping[str, Any]]) -> str:
    """`clean`, or e.g. `label_noise(kind=symmetric, rate=0.4)`."""
    parts = []
    for name, options in sorted(protocol.items()):
        inside = ", ".join(f"{key}={options[key]}" for key in sorted(options))
        parts.append(f"{name}({inside})")
    return " + ".join(parts) or "clean"


def protocol_of(cell: Mapping[str, Any]) -> str:
    """The protocol of a record's `cell`, or of a data set of a suite; where teachers saw other data, with theirs."""
    theirs = cell.get("teacher_protocol")
    own = protocol_text(cell["protocol"])
    return own if theirs is None else f"{own}; teachers: {protocol_text(theirs)}"


def place_name(place: Sequence[Any]) -> str:
    """`cifar100, A -> B`; the protocol stands between them if there is one."""
    return ", ".join(str(part) for part in place if part != "clean")


def _run_row(record: Record, metrics: Metrics) -> dict[str, Any]:
    cell, numerics = record["cell"], record["provenance"]["numerics"]
    result: Mapping[str, Any] = record.get("result") or {}
    cost: Mapping[str, Any] = record.get("cost") or {}
    teachers = record.get("teachers") or []
    row = {
        "suite": record["suite"],
        "dataset": cell["dataset"],
        "protocol": protocol_of(cell),
        "pair": cell["pair"],
        "method": cell["method"]["label"],
        "name": cell["method"]["name"],
        "family": cell["method"]["family"],
        "teachers": teachers_of(cell),
        "seed": cell["seed"],
        "status": record["status"],
        "reason": record["reason"],
        "teacher": " + ".join(f"{t['network']}@{t['seed']}" for t in cell["teachers"]),
        "teacher_score": teachers[0][metrics.primary.name] if teachers else None,
        "score": result.get(metrics.primary.name),
        "best_score": result.get(metrics.best_name),
        "best_epoch": result.get("best_epoch"),
        "student": cell["student"],
        "device": numerics["device"],
        "precision": numerics["precision"],
        "compile": numerics["compile"],
        "threads": numerics.get("threads"),
        "engine": engine_of(record),
        "id": record["id"],
    }
    row |= {metric.name: result.get(metric.name) for metric in metrics.others}
    ratio, untimed = time_ratio(cost.get("step_times")) if cost else (None, "")
    row |= {name: cost.get(name) for name in COST} | {"time_ratio_to_student": ratio, UNTIMED: untimed}
    row |= trials_of(cell["method"])
    row |= {CORPUS: record["corpus"]["seconds"]} if "corpus" in record else {}
    return row | {f"extra.{name}": value for name, value in (result.get("extra") or {}).items()}


def trials_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """How many trials chose a tuned row's settings and how long they trained; nothing of another row."""
    if not (tuning := method.get("tuning")):
        return {}
    return {"trials": len(tuning["trials"]), "trial_seconds": sum(trial["seconds"] or 0 for trial in tuning["trials"])}


def _missing_row(cell: Mapping[str, Any]) -> dict[str, Any]:
    names = ("suite", "dataset", "pair", "student", "name", "family", "teachers", "seed")
    kept = {name: cell.get(name) for name in names}
    text = protocol_of(cell)
    return {
        **kept,
        "protocol": text,
        "method": cell["label"],
        "status": cell.get("state", "missing"),
        "id": "",
        UNTIMED: "",
        "reason": cell.get("reason", ""),
        **({"trials": cell["trials"]} if "trials" in cell else {}),
    }


def _gaps(rows: Sequence[Mapping[str, Any]], planned: set[str]) -> Iterator[dict[str, Any]]:
    """What methods lack that are not `planned`: rows that nobody made, at points that others have."""
    points: dict[str, set[tuple[Any, ...]]] = {}
    for row in rows:
        points.setdefault(row["method"], set()).add((*(row[name] for name in PLACE), row["seed"]))
    others = [label for label in points if label not in planned]
    if not others:
        return
    shared = [points[label] for label in points if label in planned]
    if shared:
        wanted = set.intersection(*shared)
    else:
        places, seeds = ({point[part] for own in points.values() for point in own} for part in (slice(3), 3))
        wanted = {(*place, seed) for place, seed in itertools.product(places, seeds)}
    students = {tuple(row[name] for name in PLACE): row["student"] for row in rows}
    first = {row["method"]: row for row in reversed(rows)}
    for label in others:
        kept = {name: first[label][name] for name in ("suite", "method", "name", "family", "teachers")}
        for *place, seed in sorted(wanted - points[label]):
            where = dict(zip(PLACE, place, strict=True)) | {"student": students[tuple(place)], "seed": seed}
            yield {**kept, **where, "status": "missing", "id": "", "reason": ""}


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row[name] for name in (*GROUP, "seed")])

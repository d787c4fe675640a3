"""Records of a few methods that nobody trained, their tables, and what a terminal shows of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from kdbench.board.results import Tables


def record(method: str, top1: float | None, seed: int = 0, pair: str = "T -> S", **changes: Any) -> dict[str, Any]:
    done = top1 is not None
    result = {"top1": top1, "top5": 99.0, "nll": 0.5, "best_top1": (top1 or 0) + 1, "best_epoch": 3}
    return {
        "schema": 1,
        "id": f"{method}{seed}{pair}",
        "suite": "s",
        "status": "done" if done else "failed",
        "reason": "" if done else "it broke",
        "cell": {
            "task": "image",
            "dataset": "d",
            "protocol": changes.pop("protocol", {}),
            "pair": pair,
            "teachers": [{"network": "T", "seed": 0}],
            "student": "S",
            "method": {"name": method, "label": method, "family": "logits", "hyperparameters": {}, "source": ""},
            "seed": seed,
        },
        "result": {**result, "ece": 4.0, "agreement": 90.0, "kl_to_teacher": 0.1, "extra": changes.pop("extra", {})}
        if done
        else {},
        "teachers": [{"network": "T", "seed": 0, "top1": changes.pop("teacher", 80.0)}],
        "cost": {
            "seconds_per_epoch": 2.0,
            "own_seconds_per_epoch": 1.0,
            "step_times": [{"phase": 0, "share": 1.0, "student": [2.0], "own": [changes.pop("seconds", 2.0)]}],
            "peak_memory_mb": 5.0,
            "extra_parameters": 0,
            "student_parameters": 10,
            "deployed_parameters": 10,
            "deployed_macs": 100,
        },
        "provenance": {"numerics": {"device": "cpu", "precision": "fp32", "compile": False}, "finished_at": "2026"},
        **changes,
    }


def cell(method: str, seed: int = 0, pair: str = "T -> S") -> dict[str, Any]:
    return {
        "suite": "s",
        "task": "image",
        "dataset": "d",
        "protocol": {},
        "pair": pair,
        "student": "S",
        "label": method,
        "name": method,
        "family": "logits",
        "teachers": int(method != "student"),
        "seed": seed,
    }


def tables(records: list[dict[str, Any]], expected: Sequence[dict[str, Any]] = (), common: bool = False) -> Tables:
    made = Tables(records, expected)
    return made.common() if common else made


THREE = [
    *(record("student", value, seed) for seed, value in enumerate((70.0, 71.0, 72.0))),
    *(record("kd", value, seed, seconds=3.0) for seed, value in enumerate((72.0, 72.5, 74.5))),
    *(record("dkd", value, seed, seconds=4.0) for seed, value in enumerate((71.0, 73.0, 74.0))),
]


PAIRS = ("T -> S", "U -> S", "V -> S")
NINE = [  # runs of each of four methods: three pairs, three seeds
    record(method, 70.0 + 3 * p + level + 0.1 * seed * (-1) ** (p + len(method)), seed, pair)
    for p, pair in enumerate(PAIRS)
    for method, level in (("student", 0.0), ("kd", 2.0), ("crd", 3.0), ("dkd", 0.5))
    for seed in range(3)
]


def row(frame: pd.DataFrame, method: str, pair: str = "T -> S") -> pd.Series:
    return frame[(frame["method"] == method) & (frame["pair"] == pair)].iloc[0]


def wide_row(frame: pd.DataFrame, method: str) -> pd.Series:
    return frame[frame["method"] == method].iloc[0]


def printed(tables: list[Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]

"""A record of the right shape, for tests that care about little of it."""

from __future__ import annotations

from typing import Any

from kdbench.records import SCHEMA


def sample(**changes: Any) -> dict[str, Any]:
    """A finished cell's record, with some of its keys changed."""
    return {
        "schema": SCHEMA,
        "id": "abc",
        "suite": "s",
        "status": "done",
        "reason": "",
        "cell": {
            "role": "student",
            "dataset": "digits",
            "task": "image",
            "protocol": {},
            "pair": "a → b",
            "teachers": [{"network": "T", "seed": 0, "weights": "train"}],
            "teacher_recipes": [{}],
            "student": "S",
            "method": {"name": "kd", "label": "kd", "family": "logits", "hyperparameters": {}, "source": "0"},
            "seed": 0,
            "recipe": {"epochs": 1},
        },
        "result": {"top1": 71.25, "best_top1": 71.25, "best_epoch": 1, "extra": {}},
        "cost": {"seconds_per_epoch": 1.0},
        "curve": [{"epoch": 1, "loss": 1.0, "terms": {"ce": 1.0}, "top1": 71.25}],
        "teachers": [{"network": "T", "seed": 0, "weights": "0", "top1": 80.0}],
        "provenance": {
            "versions": {},
            "hardware": {},
            "numerics": {"device": "cpu", "precision": "fp32", "compile": False},
            "git": None,
            "finished_at": "2026-01-01T00:00:00+00:00",
        },
        **changes,
    }

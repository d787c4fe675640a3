"""Records that nobody trained: as many methods, pairs, seeds and protocols as a page test needs, always the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

PAIRS = ("cifar_resnet56 -> cifar_resnet20", "cifar_vgg13 -> cifar_mobilenetv2")
EPOCHS = 20
FAMILIES = ("features", "logits", "multi_teacher", "mutual", "relations", "staged")


def page_record(
    label: str,
    pair: str = PAIRS[0],
    seed: int = 0,
    *,
    name: str = "",
    family: str = "logits",
    top1: float = 70.0,
    status: str = "done",
    reason: str = "",
    dataset: str = "cifar10",
    protocol: dict[str, Any] | None = None,
    seconds: float = 10.0,
    calibrated: bool = True,
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """One record of schema 2; a failed one has neither result nor cost."""
    decisive = repr((label, pair, seed, dataset, protocol))
    identity = hashlib.sha256(decisive.encode()).hexdigest()[:16]
    random = np.random.default_rng(int(identity, 16))
    teacher, _, student = pair.partition(" -> ")
    record = {
        "schema": 2,
        "id": identity,
        "suite": "synthetic",
        "status": status,
        "reason": reason,
        "cell": {
            "role": "student",
            "task": "image",
            "dataset": dataset,
            "protocol": protocol or {},
            "pair": pair,
            "teachers": [{"network": teacher, "seed": 0}],
            "teacher_recipes": [{"epochs": epochs}],
            "student": student,
            "method": {
                "name": name or label,
                "label": label,
                "family": family,
                "hyperparameters": {"temperature": 2.0, "weight": 0.9},
                "source": "",
            },
            "seed": seed,
            "recipe": {"epochs": epochs, "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.05},
        },
        "result": {},
        "cost": {},
        "curve": [],
        "teachers": [{"network": teacher, "seed": 0, "top1": 78.0, "weights": "0"}],
        "provenance": {
            "versions": {"kdbench": "0.1.0", "torch": "2.14.1"},
            "hardware": {"cores": 2, "processor": "synthetic"},
            "numerics": {"device": "cpu", "precision": "fp32", "compile": False, "threads": 1},
            "git": "0" * 40,
            "finished_at": "2026-01-02T03:04:05+00:00",
        },
    }
    if status != "done":
        return record
    scores = [
        round(top1 - (top1 - 25) * math.exp(-5 * epoch / epochs) + random.normal(0, 0.6) * (epoch < epochs), 2)
        for epoch in range(1, epochs + 1)
    ]
    record["curve"] = [
        {"epoch": epoch, "loss": 2 / epoch, "learning_rate": 0.05, "seconds": seconds, "top1": score}
        for epoch, score in enumerate(scores, 1)
    ]
    record["result"] = {
        "top1": scores[-1],
        "top5": 97.0,
        "nll": 1.1,
        "ece": round(abs(random.normal(5, 2)), 3),
        "best_top1": max(scores),
        "best_epoch": scores.index(max(scores)) + 1,
        "agreement": round(top1 + 12, 2),
        "kl_to_teacher": 0.3,
        "reliability": reliability_bins(random) if calibrated else None,
        "extra": {},
    }
    record["cost"] = {
        "seconds_per_epoch": seconds,
        "own_seconds_per_epoch": seconds / 2,
        "step_times": [{"phase": 0, "share": 1.0, "student": [1.0], "own": [seconds]}],
        "joules_per_epoch": None,
        "peak_memory_mb": 100.0 + seconds,
        "extra_parameters": 0 if family == "logits" else 131_072,
        "student_parameters": 278_324,
        "deployed_parameters": 278_324,
        "deployed_macs": 41_000_000,
        "latency_ms_batch1": 1.2,
        "latency_ms_batch128": 30.0,
    }
    return record


def reliability_bins(random: np.random.Generator, bins: int = 15) -> dict[str, list[float]]:
    """A student that is too sure of itself."""
    middle = (np.arange(bins) + 0.5) / bins
    count = random.poisson(40 + 1500 * middle**4)
    count[0] = 0
    filled = count > 0
    accuracy = np.clip(middle - 0.12 * middle + random.normal(0, 0.02, bins), 0, 1)
    return {
        "count": count.tolist(),
        "confidence": (middle * filled).tolist(),
        "accuracy": (accuracy * filled).tolist(),
    }


def synthetic(
    methods: Sequence[str],
    pairs: Sequence[str] = PAIRS,
    seeds: Sequence[int] = (0, 1, 2),
    protocols: Sequence[dict[str, Any]] = ({},),
    gaps: bool = True,
    **changes: Any,
) -> list[dict[str, Any]]:
    """A whole suite. With `gaps` the last method does not apply to the first pair, the one before it failed with one
    seed, and the one before that lacks a seed.
    """
    records = []
    for m, label in enumerate(methods):
        random = np.random.default_rng(m)
        gain = {"student": 0.0, "kd": 1.5}.get(label, random.normal(1.6, 1.4))
        cost = {"student": 10.0, "kd": 13.0}.get(label, 13.0 * math.exp(abs(random.normal(0, 0.5))))
        family = {"student": "baseline", "kd": "logits"}.get(label, FAMILIES[m % len(FAMILIES)])
        for protocol in protocols:
            for p, pair in enumerate(pairs):
                for seed in seeds:
                    common = np.random.default_rng(1000 + seed).normal(0, 0.2)  # what all methods of a seed share
                    top1 = 69.0 + 2 * p + gain + common + np.random.default_rng([m, p, seed]).normal(0, 0.15)
                    record = page_record(
                        label,
                        pair,
                        seed,
                        family=family,
                        top1=round(float(top1 - 4 * len(protocol)), 2),
                        seconds=round(cost * (1 + p / 10), 3),
                        protocol=protocol,
                        **changes,
                    )
                    left = len(methods) - m
                    if gaps and left == 1 and p == 0:
                        record = _unfinished(record, "not_applicable", f"{label} needs feature maps [C, H, W]")
                    elif gaps and left == 2 and p == 0 and seed == seeds[-1]:
                        record = _unfinished(record, "failed", "the loss became infinite in epoch 3: lower its weight")
                    elif gaps and left == 3 and p == 0 and seed == seeds[0]:
                        continue
                    records.append(record)
    return records


def _unfinished(record: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
    return {**record, "status": status, "reason": reason, "result": {}, "cost": {}, "curve": []}


def grid(
    methods: Sequence[str], pairs: Sequence[str] = PAIRS, seeds: Sequence[int] = (0, 1, 2)
) -> list[dict[str, Any]]:
    """The cells that `synthetic` fills, as `runs_table` expects them."""
    return [
        {
            "suite": "synthetic",
            "task": "image",
            "dataset": "cifar10",
            "protocol": {},
            "pair": pair,
            "student": pair.partition(" -> ")[2],
            "label": label,
            "name": label,
            "family": "logits",
            "teachers": int(label != "student"),
            "seed": seed,
        }
        for label in methods
        for pair in pairs
        for seed in seeds
    ]

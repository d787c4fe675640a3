"""Curves and calibration: what of a record is a series, put together over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kdbench.records import Record


@dataclass(frozen=True)
class Curve:
    """Test score by epoch: mean, least and greatest of the seeds, `[epochs]` each.

    Where recipes count updates, `epochs` are the updates done, and `unit` says so.
    """

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    seeds: int
    unit: str = "epoch"


@dataclass(frozen=True)
class Reliability:
    """Accuracy by confidence, `[bins]` each without empty bins; both in 0..1. `share` is of the samples."""

    confidence: list[float]
    accuracy: list[float]
    share: list[float]


def curve(records: Sequence[Record], score: str) -> Curve | None:
    """The curve of one method's finished runs on one pair: the epochs at which all of them were evaluated.

    Args:
        score: the metric's name.
    """
    done = [record for record in records if record["status"] == "done"]
    unit = "updates" if all("updates" in record["cell"].get("recipe", {}) for record in done) else "epoch"
    runs = [
        {entry[unit]: entry[score] for entry in record.get("curve") or [] if entry.get(score) is not None}
        for record in done
    ]
    if not runs or not (epochs := sorted(set.intersection(*map(set, runs)))):
        return None
    scores = np.array([[run[epoch] for epoch in epochs] for run in runs])  # [seeds, epochs]
    mean, low, high = (_rounded(part, 3) for part in (scores.mean(0), scores.min(0), scores.max(0)))
    return Curve(epochs, mean, low, high, len(runs), unit)


def reliability(records: Sequence[Record]) -> Reliability | None:
    """The reliability diagram of one method's finished runs on one pair, all their test samples together.

    None where a run has none: records of schema 1 were not measured.
    """
    done = [record["result"].get("reliability") for record in records if record["status"] == "done"]
    bins = [one for one in done if one]
    if not bins or len(bins) < len(done):
        return None
    count, sure, hit = (np.array([one[key] for one in bins], float) for key in ("count", "confidence", "accuracy"))
    total = count.sum(0)  # of [seeds, bins]
    filled = total > 0
    confidence, accuracy = ((values * count).sum(0)[filled] / total[filled] for values in (sure, hit))
    return Reliability(*(_rounded(part, 4) for part in (confidence, accuracy, total[filled] / total.sum())))


def _rounded(values: np.ndarray, digits: int) -> list[float]:
    return [round(value, digits) for value in values.tolist()]


def unit_of(curves: Iterable[Curve]) -> str:
    """What the axis below several curves counts."""
    return " or ".join(dict.fromkeys(curve.unit for curve in curves)) or "epoch"

"""The metrics of any classification task; like every table of metrics free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.tasks.metrics import Metric, Metrics


def classification_metrics(task: str) -> Metrics:
    """The table of a task that classifies."""
    percent: dict[str, Any] = {"low": 0, "high": 100}
    lower: dict[str, Any] = {"higher_is_better": False, "low": 0}
    neither: dict[str, Any] = {"higher_is_better": None}
    return Metrics(
        task,
        (
            Metric("top1", "top-1", "%", "top-1 accuracy, %", **percent),
            Metric("top5", "top-5", "%", "top-5 accuracy, %", **percent),
            Metric("nll", "NLL", "nats", "negative log-likelihood, nats", decimals=3, **lower),
            Metric("ece", "ECE", "%", "expected calibration error, 15 bins, %", high=100, shown=True, **lower),
            Metric(
                "agreement",
                "agreement",
                "%",
                "test samples on which the teacher names the same class, %",
                of_teacher=True,
                shown=True,
                **neither,
                **percent,
            ),
            Metric(
                "kl_to_teacher",
                "KL to the teacher",
                "nats",
                "divergence from the teacher's prediction, nats",
                of_teacher=True,
                low=-1e-4,  # how far below zero rounding may bring a divergence
                decimals=3,
                **neither,
            ),
        ),
        extra=(
            Metric("mean_student_top1", "students' top-1", "%", "top-1 of the students, on average, %", **percent),
            Metric("ensemble_top1", "ensemble's top-1", "%", "top-1 of the students' mean softmax, %", **percent),
            Metric(
                "disagreement",
                "disagreement",
                "%",
                "test samples on which two students name different classes, %",
                **neither,
                **percent,
            ),
        ),
        recompute=from_reliability,
    )


def from_reliability(result: Mapping[str, Any]) -> dict[str, float]:
    """The scores that follow from a result's `reliability`; none where a record of an old version has none."""
    bins = result.get("reliability")
    return {"top1": accuracy(bins), "ece": expected_calibration_error(bins)} if bins else {}


def accuracy(bins: Mapping[str, list[float]]) -> float:
    """The share of hits in the bins of `classification.reliability`, in percent."""
    hits = sum(count * hit for count, hit in zip(bins["count"], bins["accuracy"], strict=True))
    return 100.0 * hits / sum(bins["count"])


def expected_calibration_error(bins: Mapping[str, list[float]]) -> float:
    """Mean |accuracy - confidence| over the samples of `classification.reliability`'s bins, in percent."""
    rows = zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
    return 100.0 * sum(count * abs(hit - sure) for count, sure, hit in rows) / sum(bins["count"])

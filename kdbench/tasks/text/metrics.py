"""The metrics of text: each data set has its own score, as GLUE's tasks do; every constant prediction has a value.

Stated rules, so that no score is ever NaN: the Matthews correlation is 0 where either side is constant (a perfect
match of a single class too), F1 is 0 where neither side names the class, and Pearson's and Spearman's correlations are
0 where either side is constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.tasks.classification_metrics import classification_metrics, from_reliability
from kdbench.tasks.metrics import Metric, Metrics

# what a data set is ranked by -> the scores whose mean that is
SCORES: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "f1": ("f1",),
    "mcc": ("mcc",),
    "accuracy_f1": ("accuracy", "f1"),
    "correlation": ("pearson", "spearman"),
}
REGRESSION = "correlation"  # its targets are numbers


def from_result(result: Mapping[str, Any]) -> dict[str, float]:
    """The scores that follow from what else a result keeps."""
    known = from_reliability(result)
    if not known:
        return {}
    found = {"accuracy": known["top1"], "ece": known["ece"]}
    return {**found, "score": known["top1"]} if result.get("metric") == "accuracy" else found


_SIGNED: dict[str, Any] = {"low": -100, "high": 100}
_PERCENT: dict[str, Any] = {"low": 0, "high": 100}
_CLASSES = classification_metrics("text")

METRICS = Metrics(
    "text",
    (
        Metric("score", "score", "%", "the data set's own score: accuracy, or GLUE's for the task, %", **_SIGNED),
        Metric("accuracy", "accuracy", "%", "accuracy, %", **_PERCENT),
        Metric("f1", "F1", "%", "F1 of the second of two classes, else the mean over classes, %", **_PERCENT),
        Metric("mcc", "Matthews correlation", "%", "Matthews correlation times 100; 0 if constant, %", **_SIGNED),
        Metric("pearson", "Pearson correlation", "%", "Pearson correlation times 100; 0 if constant, %", **_SIGNED),
        Metric("spearman", "Spearman correlation", "%", "Spearman correlation times 100; 0 if constant, %", **_SIGNED),
        Metric("mismatched", "mismatched accuracy", "%", "accuracy on MNLI's mismatched texts, %", **_PERCENT),
        *(metric for metric in _CLASSES.scores if metric.name not in ("top1", "top5")),
    ),
    extra=_CLASSES.extra,
    recompute=from_result,
)

"""The metrics of translation, and how they follow from what a record keeps; free of torch and sacrebleu."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.tasks.metrics import Metric, Metrics

ORDERS, BETA = 6, 2  # of chrF: character n-grams up to 6, recall counts twice


def from_statistics(result: Mapping[str, Any]) -> dict[str, float]:
    """chrF, BLEU and NLL from the counts that a record keeps (sacrebleu's, with its default smoothing)."""
    kept = result.get("statistics")
    if not kept:
        return {}
    return {
        "chrf": chrf(kept["chrf"]),
        "bleu": bleu(kept["bleu"]),
        "nll": kept["nats"] / max(kept["tokens"], 1),
    }


def bleu(counts: Mapping[str, Any]) -> float:
    """Corpus BLEU, 0 to 100, of matched and of all n-grams and of both lengths, with exponential smoothing."""
    if counts["length"] == 0 or not any(counts["matched"]):
        return 0.0
    logarithms, smoothing = 0.0, 1.0
    for matched, total in zip(counts["matched"], counts["total"], strict=True):
        if total == 0:
            return 0.0
        if matched == 0:
            smoothing *= 2
        logarithms += math.log(matched / total if matched else 1 / (smoothing * total))
    short = min(1.0, math.exp(1 - counts["reference_length"] / counts["length"]))
    return 100.0 * short * math.exp(logarithms / len(counts["matched"]))


def chrf(counts: Sequence[Sequence[int]]) -> float:
    """Corpus chrF, 0 to 100, of (hypothesis, reference, matched) character n-grams of each order."""
    precision = recall = 0.0
    orders = 0
    for mine, theirs, matched in counts:
        if mine > 0 and theirs > 0:
            precision, recall, orders = precision + matched / mine, recall + matched / theirs, orders + 1
    if not orders or precision + recall == 0:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return 100.0 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


_PERCENT: dict[str, Any] = {"low": 0, "high": 100}
METRICS = Metrics(
    "translation",
    (
        Metric("chrf", "chrF", "", "chrF of the test set's translations, 0 to 100", **_PERCENT),
        Metric("bleu", "BLEU", "", "BLEU of the test set's translations, 0 to 100", shown=True, **_PERCENT),
        Metric(
            "nll",
            "NLL",
            "nats",
            "negative log-likelihood of a reference token, nats",
            higher_is_better=False,
            low=0,
            decimals=3,
        ),
        Metric(
            "hallucinations",
            "hallucinations",
            "%",
            "translations that repeat themselves or have next to nothing of the reference, %",
            higher_is_better=False,
            shown=True,
            **_PERCENT,
        ),
        Metric(
            "distinct1", "distinct words", "%", "different words of all words, %", higher_is_better=None, **_PERCENT
        ),
        Metric(
            "distinct2",
            "distinct word pairs",
            "%",
            "different pairs of neighbouring words of all pairs, %",
            higher_is_better=None,
            **_PERCENT,
        ),
        Metric(
            "likeness",
            "chrF to the teacher",
            "",
            "chrF against the teacher's translations, 0 to 100",
            higher_is_better=None,
            of_teacher=True,
            **_PERCENT,
        ),
    ),
    extra=(
        Metric("mean_student_chrf", "students' chrF", "", "chrF of the students, on average, 0 to 100", **_PERCENT),
    ),
    recompute=from_statistics,
)

"""Scores of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.losses import kl
from kdbench.method import Output


def logits_of(model: Callable[..., Any], inputs: Tensor) -> Tensor:
    """Logits `[B, K]` of a network or a deployed module, which may return either an `Output` or the logits."""
    output = model(inputs)
    return output.logits if isinstance(output, Output) else output


def classification(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> dict[str, float | None]:
    """Scores of logits `[N, K]` against targets `[N]` and, where given, a teacher's logits `[N, K]`.

    Returns:
        `top1`, `top5`, `agreement` (share of samples with the teacher's top class) and `ece` (expected calibration
        error, 15 bins) in percent, `nll` in nats, `kl_to_teacher` in nats at temperature 1. Those that need a teacher
        are None without one.
    """
    logits = logits.float()
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == targets[:, None]
    scores: dict[str, float | None] = {
        "top1": _percent(hits[:, 0]),
        "top5": _percent(hits.any(1)),
        "nll": F.cross_entropy(logits, targets).item(),
        "ece": expected_calibration_error(reliability(logits, targets)),
        "agreement": None,
        "kl_to_teacher": None,
    }
    if teacher_logits is not None:
        scores["agreement"] = _percent(ranked[:, 0] == teacher_logits.argmax(1))
        scores["kl_to_teacher"] = kl(logits, teacher_logits.float()).item()
    return scores


def reliability(logits: Tensor, targets: Tensor, bins: int = 15) -> dict[str, list[float]]:
    """Confidence against accuracy of logits `[N, K]`, by equal bins of confidence (Guo et al. 2017).

    Returns:
        `count`, mean `confidence` and `accuracy` (both in 0..1, 0 where the bin is empty) of each of the `bins` bins.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # bins are open below, as in the paper
    count = torch.bincount(place, minlength=bins)
    hits = (predicted == targets).double()
    means = [
        torch.bincount(place, weights=values, minlength=bins) / count.clamp(min=1) for values in (confidence, hits)
    ]
    return {"count": count.tolist(), "confidence": means[0].tolist(), "accuracy": means[1].tolist()}


def expected_calibration_error(bins: dict[str, list[float]]) -> float:
    """Mean |accuracy - confidence| over the samples of `reliability`'s bins, in percent."""
    rows = zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
    return 100.0 * sum(count * abs(hit - sure) for count, sure, hit in rows) / sum(bins["count"])


def group(members: list[Tensor], targets: Tensor) -> dict[str, float]:
    """Scores of several students that trained together, from each one's logits `[N, K]`, in percent.

    The ensemble is the mean of the softmax probabilities; disagreement is the share of samples on which two students
    name different classes, averaged over the pairs of students.
    """
    votes = [logits.argmax(1) for logits in members]
    top1 = [_percent(vote == targets) for vote in votes]
    probabilities = torch.stack([logits.float().softmax(1) for logits in members]).mean(0)
    pairs = [(a, b) for i, a in enumerate(votes) for b in votes[i + 1 :]]
    return {
        "mean_student_top1": sum(top1) / len(top1),
        "ensemble_top1": _percent(probabilities.argmax(1) == targets),
        "disagreement": sum(_percent(a != b) for a, b in pairs) / len(pairs),
    }


def _percent(hits: Tensor) -> float:
    return 100.0 * hits.sum().item() / len(hits)

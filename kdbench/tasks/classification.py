"""Classification, whatever is classified: its evaluation and its scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.losses import kl
from kdbench.method import Taps, answer_of
from kdbench.tasks.classification_metrics import expected_calibration_error
from kdbench.tasks.task import Task


class ClassificationTask(Task):
    """A task whose samples have one class each; its predictions are the logits `[N, K]`, float32.

    Attributes:
        num_classes: K.
        numerics: how networks are run.
        test_batch_size: samples in a full batch of `test_batches`.
    """

    num_classes: int
    numerics: Numerics
    test_batch_size: int

    @abstractmethod
    def test_batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """The test set's (inputs, targets) in order."""

    @cached_property
    def targets(self) -> Tensor:
        """The test set's, `[N]`."""
        return torch.cat([targets for _, targets in self.test_batches()])

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Tensor:
        model.eval()
        run = self.numerics.compiled(model, self.test_batch_size, taps=Taps())
        with self.numerics.autocast():
            return torch.cat([answer_of(run(inputs)).float() for inputs in self.test_inputs(model)])

    def test_inputs(self, model: nn.Module) -> Iterable[Tensor]:
        """The test set's inputs in order, as a network is given them; called in eval mode, under autocast."""
        return (inputs for inputs, _ in self.test_batches())

    def scores(self, predictions: Tensor, teacher: Tensor | None = None) -> dict[str, float | None]:
        return classification(predictions, self.targets, teacher)

    def keeps(self, predictions: Tensor) -> dict[str, Any]:
        return {"reliability": reliability(predictions, self.targets)}

    def group(self, members: Sequence[Tensor]) -> dict[str, float]:
        return group(members, self.targets)

    def blank_targets(self, samples: int) -> Tensor:
        return torch.arange(samples) % self.num_classes


def classification(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> dict[str, float | None]:
    """Scores of logits `[N, K]` against targets `[N]` and, where given, a teacher's logits `[N, K]`.

    Returns:
        `top1`, `top5`, `agreement` (share of samples with the teacher's top class) and `ece` (expected calibration
        error, 15 bins) in percent, `nll` in nats, `kl_to_teacher` in nats at temperature 1. Those that need a teacher
        are None without one.

    Sums are taken on the CPU: an accelerator's weighted `bincount` adds in a random order.
    """
    logits, targets = logits.float().cpu(), targets.cpu()
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
        teacher_logits = teacher_logits.float().cpu()
        scores["agreement"] = _percent(ranked[:, 0] == teacher_logits.argmax(1))
        scores["kl_to_teacher"] = kl(logits, teacher_logits).item()
    return scores


def reliability(logits: Tensor, targets: Tensor, bins: int = 15) -> dict[str, list[float]]:
    """Confidence against accuracy of logits `[N, K]`, by equal bins of confidence (Guo et al. 2017).

    Returns:
        `count`, mean `confidence` and `accuracy` (both in 0..1, 0 where the bin is empty) of each of the `bins` bins.
    """
    logits, targets = logits.cpu(), targets.cpu()
    confidence, predicted = logits.double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)  # bins are open below, as in the paper
    place, confidence = place.cpu(), confidence.cpu()  # on CUDA weighted counts are summed in no fixed order
    count = torch.bincount(place, minlength=bins)
    hits = (predicted == targets).double().cpu()
    means = [
        torch.bincount(place, weights=values, minlength=bins) / count.clamp(min=1) for values in (confidence, hits)
    ]
    return {"count": count.tolist(), "confidence": means[0].tolist(), "accuracy": means[1].tolist()}


def group(members: Sequence[Tensor], targets: Tensor) -> dict[str, float]:
    """Scores of several students that trained together, from each one's logits `[N, K]`, in percent.

    The ensemble is the mean of the softmax probabilities; disagreement is the share of samples on which two students
    name different classes, averaged over the pairs of students.
    """
    members, targets = [logits.float().cpu() for logits in members], targets.cpu()
    votes = [logits.argmax(1) for logits in members]
    top1 = [_percent(vote == targets) for vote in votes]
    probabilities = torch.stack([logits.softmax(1) for logits in members]).mean(0)
    pairs = [(a, b) for i, a in enumerate(votes) for b in votes[i + 1 :]]
    return {
        "mean_student_top1": sum(top1) / len(top1),
        "ensemble_top1": _percent(probabilities.argmax(1) == targets),
        "disagreement": sum(_percent(a != b) for a, b in pairs) / len(pairs),
    }


def _percent(hits: Tensor) -> float:
    return 100.0 * hits.sum().item() / len(hits)

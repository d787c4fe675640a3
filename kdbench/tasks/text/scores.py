"""Scores of predictions on texts; the rules for constant ones stand in `kdbench.tasks.text.metrics`."""

from __future__ import annotations

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor

from kdbench.tasks.classification import classification
from kdbench.tasks.text.metrics import REGRESSION, SCORES

OF_CLASSES = ("accuracy", "f1", "mcc", "nll", "ece")
OF_NUMBERS = ("pearson", "spearman")
OF_TEACHER = ("agreement", "kl_to_teacher")


def scores(metric: str, answers: Tensor, targets: Tensor, teacher: Tensor | None = None) -> dict[str, float | None]:
    """A value for each of the names above, in percent (`nll`, `kl_to_teacher`: nats), and `score`, the mean of those
    that `metric` stands for; None for what the data set has not.

    Args:
        metric: a key of `SCORES`.
        answers: logits `[N, K]`, or numbers `[N, 1]` of a regression; `teacher` likewise.
        targets: classes `[N]`, or numbers.
    """
    found: dict[str, float | None] = dict.fromkeys((*OF_CLASSES, *OF_NUMBERS, *OF_TEACHER))
    if metric == REGRESSION:
        found |= correlations(answers[:, 0].double().cpu().numpy(), targets.double().cpu().numpy())
    else:
        known = classification(answers, targets, teacher)
        predicted, wanted = answers.argmax(1).cpu().numpy(), targets.cpu().numpy()
        average = "binary" if answers.shape[1] == 2 else "macro"
        found |= {"accuracy": known["top1"], **{name: known[name] for name in ("nll", "ece", *OF_TEACHER)}}
        found["f1"] = 100 * float(f1_score(wanted, predicted, average=average, zero_division=0))
        varied = np.ptp(wanted) and np.ptp(predicted)
        found["mcc"] = 100 * float(matthews_corrcoef(wanted, predicted)) if varied else 0.0
    chosen = [found[name] for name in SCORES[metric]]
    return {"score": sum(value for value in chosen if value is not None) / len(chosen), **found}


def correlations(numbers: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's, times 100; 0 where either side is constant."""
    if np.ptp(numbers) == 0 or np.ptp(targets) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    measured = {"pearson": pearsonr(numbers, targets)[0], "spearman": spearmanr(numbers, targets)[0]}
    # nearly constant numbers round to a variance of zero
    return {name: 100 * float(value) if np.isfinite(value) else 0.0 for name, value in measured.items()}

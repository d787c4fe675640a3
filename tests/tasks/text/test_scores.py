"""Scores of texts: GLUE's, with a value for constant predictions, and both of MNLI's sets."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.tasks.text.metrics import METRICS, SCORES
from kdbench.tasks.text.scores import scores


def answers(classes: list[int], of: int = 2) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), of) * 4.0


@pytest.mark.parametrize(
    ("targets", "predicted", "mcc"),
    [([1, 1, 0, 1], [1, 1, 1, 1], 0.0), ([1, 1, 1, 1], [1, 1, 1, 1], 0.0), ([1, 1, 0, 0], [0, 0, 1, 1], -100.0)],
)
def test_constant_classes_have_a_correlation_of_zero(targets: list[int], predicted: list[int], mcc: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores("mcc", answers(predicted), torch.tensor(targets))
    assert found["mcc"] == found["score"] == pytest.approx(mcc)


@pytest.mark.parametrize("numbers", [[2.5] * 4, [1.0, 2.0, 3.0, 4.0]])
def test_constant_numbers_have_a_correlation_of_zero(numbers: list[float]) -> None:
    targets = torch.tensor([5.0, 4.0, 3.0, 2.0] if numbers[0] == 1 else [1.0, 2.0, 3.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores("correlation", torch.tensor(numbers)[:, None], targets)
    expected = -100 if numbers[0] == 1 else 0
    assert found["pearson"] == found["spearman"] == found["score"] == pytest.approx(expected)
    assert found["accuracy"] is found["nll"] is None


def test_a_collapsed_epoch_never_wins_over_a_weak_one() -> None:
    targets = torch.tensor([1.0, 2.0, 3.0, 4.0])
    collapsed = scores("correlation", torch.full((4, 1), 2.5), targets)["score"]
    weak = scores("correlation", torch.tensor([[1.0], [3.0], [1.0], [2.0]]), targets)["score"]
    assert collapsed is not None
    assert weak is not None
    assert METRICS.primary.better(weak, collapsed)


def test_the_score_is_the_mean_of_what_it_stands_for() -> None:
    found = scores("accuracy_f1", answers([1, 0, 1, 1]), torch.tensor([1, 0, 0, 1]))
    assert found["accuracy"] == 75
    assert found["f1"] == pytest.approx(80)  # of class 1: two of three right, none missed
    assert found["score"] == pytest.approx(77.5)
    several = scores("accuracy", answers([2, 1, 0], 3), torch.tensor([2, 1, 1]))
    assert several["f1"] == pytest.approx(100 * (1 + 2 / 3 + 0) / 3)


def test_every_score_is_in_the_table_and_no_more() -> None:
    names = {metric.name for metric in METRICS.scores} - {"mismatched"}
    for metric, values in ((m, torch.tensor([0, 1])) for m in SCORES if m != "correlation"):
        found: dict[str, Any] = scores(metric, answers([0, 1]), values, answers([1, 1]))
        assert found.keys() == names
        assert found["agreement"] == 50


def test_accuracy_can_be_told_again_from_what_a_result_keeps() -> None:
    from kdbench.tasks.classification import reliability

    logits, targets = answers([0, 1, 1]), torch.tensor([0, 1, 0])
    kept = {"metric": "accuracy", "reliability": reliability(logits, targets)}
    found = scores("accuracy", logits, targets)
    assert METRICS.recompute is not None
    for name, value in METRICS.recompute(kept).items():
        assert value == pytest.approx(found[name])

"""A task's table of metrics, and the scores that follow from what a record keeps."""

from __future__ import annotations

import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.tasks import metrics
from kdbench.tasks.classification import classification, reliability
from kdbench.tasks.classification_metrics import classification_metrics
from kdbench.tasks.metrics import Metric, Metrics


def test_the_scores_of_a_classifier_are_those_of_its_table() -> None:
    logits, targets = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
    found = classification(logits, targets, logits)
    assert list(found) == [metric.name for metric in metrics.of("image").scores]
    assert None not in found.values()
    without = classification(logits, targets, None)
    assert [name for name, value in without.items() if value is None] == [
        m.name for m in metrics.of("image").of_teacher
    ]


def test_what_a_record_keeps_of_a_classifier_tells_two_scores_again() -> None:
    logits, targets = 3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 4
    found, recompute = classification(logits, targets, None), classification_metrics("any").recompute
    assert recompute is not None
    again = recompute({"reliability": reliability(logits, targets)})
    assert again == pytest.approx({"top1": found["top1"], "ece": found["ece"]})
    assert recompute({"reliability": None}) == recompute({}) == {}


@pytest.mark.parametrize("name", ["loss", "epoch", "extra", "seconds"])
def test_a_metric_takes_no_name_that_a_record_has_for_something_else(name: str) -> None:
    metric = Metric(name, "any", "", "any")
    with pytest.raises(KDBenchError, match=f"task 'mine' has a metric '{name}'"):
        Metrics("mine", (metric,))
    with pytest.raises(KDBenchError, match=f"task 'mine' has a metric '{name}'"):
        Metrics("mine", (Metric("good", "good", "", "any"),), extra=(metric,))


def test_the_better_of_two_scores_goes_by_their_direction() -> None:
    accuracy, perplexity = Metric("a", "a", "%", "any"), Metric("p", "p", "", "any", higher_is_better=False)
    assert (accuracy.best([1, 3, 2]), perplexity.best([1, 3, 2])) == (3, 1)
    assert [accuracy.better(score, than=2) for score in (1, 2, 3)] == [False, False, True]
    assert [perplexity.better(score, than=2) for score in (1, 2, 3)] == [True, False, False]
    assert (accuracy.gain(3, over=1), perplexity.gain(3, over=1)) == (2, -2)

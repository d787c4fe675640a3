"""seq_kd is plain training on what a beam search of the teacher finds."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import float64  # noqa: F401  (a fixture for every test here)

from kdbench import registry
from kdbench.suites.corpus import Corpus


@pytest.mark.equation
def test_the_loss_is_the_smoothed_likelihood_of_the_batchs_own_targets() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([0, 4, 2, 2, 1, 3])
    terms = registry.create("seq_kd").loss(goldens.batch(targets), goldens.output(logits), None)
    log_p = logits.log_softmax(1)
    wanted = -sum(0.9 * log_p[row, token] + 0.1 * log_p[row].mean() for row, token in enumerate(targets)) / 6
    goldens.close(terms["ce"], wanted)
    found, expected = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (terms["ce"], wanted))
    goldens.close(found, expected)


def test_the_corpus_is_a_beams_best() -> None:
    assert registry.create("seq_kd").corpus() == Corpus("beam", 5, {"length_penalty": 1.0}, taken=1)
    assert registry.create("seq_kd", {"beams": 1}).corpus() == Corpus("beam", 1, {"length_penalty": 1.0})

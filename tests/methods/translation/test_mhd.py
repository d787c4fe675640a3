"""mhd is plain training on several hypotheses, each of which weighs as much as a reference would."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import float64  # noqa: F401  (a fixture for every test here)

from kdbench import registry
from kdbench.suites.corpus import Corpus


@pytest.mark.equation
def test_the_loss_sums_over_the_tokens_of_all_hypotheses() -> None:
    """Of one source: hypotheses of 2 and 3 tokens; the sum of their likelihoods is the mean times 5."""
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([1, 5, 2, 2, 5])
    method = registry.create("mhd", {"label_smoothing": 0.0})
    loss = sum(method.loss(goldens.batch(targets), goldens.output(logits), None).values())
    hypotheses = [slice(0, 2), slice(2, 5)]
    wanted = -sum(logits[h].log_softmax(1).gather(1, targets[h, None]).sum() for h in hypotheses)
    goldens.close(5 * loss, wanted)
    goldens.close(*(torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (5 * loss, wanted)))


@pytest.mark.parametrize(
    ("rule", "options"),
    [("beam", {}), ("diverse", {"diversity": 0.5}), ("top_k", {"top_k": 10}), ("nucleus", {"top_p": 0.7}),
     ("ancestral", {}), ("mbr", {"pool": 30})],
)  # fmt: skip
def test_each_rule_draws_ten_and_the_first_are_taken(rule: str, options: dict[str, float]) -> None:
    for taken in (1, 3, 5, 10):
        made = registry.create("mhd", {"rule": rule, "hypotheses": taken}).corpus()
        assert made == Corpus(rule, 10, options, taken=taken)
        assert made.written == Corpus(rule, 10).written


def test_one_hypothesis_of_a_beam_is_seq_kd() -> None:
    one = registry.create("mhd", {"hypotheses": 1, "drawn": 5}).corpus()
    assert one is not None
    other = registry.create("seq_kd").corpus()
    assert other is not None
    assert (one.written, one.view) == (other.written, other.view)

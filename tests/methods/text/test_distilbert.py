"""distilbert agrees with the authors' step."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.texts import Given, built, holds_against_padding, network

from kdbench import Batch, NotApplicable
from kdbench.losses import answer_kl


@pytest.mark.equation
def test_it_agrees_with_the_authors_step_on_masked_words() -> None:
    golden = goldens.load("distilbert")
    goldens.require(golden["logits_s"], golden["hidden_s"])
    mask = golden["attention_mask"]
    ours, theirs = (Given(logits=golden[f"logits_{s}"][mask], hidden=[golden[f"hidden_{s}"]], mask=mask) for s in "st")
    seen = Batch(torch.zeros(2, 3, 5), golden["mlm_labels"][mask], torch.arange(2))  # -100 where no word is masked
    terms = built("distilbert", {}, network(8), network(8)).loss(seen, ours, theirs)
    goldens.close(terms["kd"], 5 * golden["loss_ce"])
    goldens.close(terms["ce"], 2 * golden["loss_mlm"])
    goldens.close(terms["cosine"], golden["loss_cos"])
    loss = sum(terms.values())
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"logits_s": golden["logits_s"], "hidden_s": golden["hidden_s"]}, {}, golden)


@pytest.mark.parametrize("teacher", [12, 24])
def test_padding_enters_no_term(teacher: int) -> None:
    holds_against_padding(lambda: built("distilbert", {}, network(12), network(teacher)), 12, teacher)


def test_other_tokens_are_refused() -> None:
    with pytest.raises(NotApplicable, match="distilbert compares tokens place by place"):
        built("distilbert", {}, network(12, vocabulary="w"), network(12))


@pytest.mark.parametrize(("temperature", "gradient"), [(1.0, -0.0987), (4.0, -0.0999)])
def test_the_weight_of_soft_answers_does_not_fall_with_the_temperature(temperature: float, gradient: float) -> None:
    student = torch.zeros(1, 2, requires_grad=True)
    answer_kl(student, torch.tensor([[0.4, 0.0]]), temperature).backward()
    assert student.grad is not None
    assert student.grad[0, 0].item() == pytest.approx(gradient, abs=5e-5)

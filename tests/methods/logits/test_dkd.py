"""dkd is the paper's equation, with its warm-up, and finite where the official code is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    cross_entropy,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import registry


def decoupled(student: Tensor, teacher: Tensor, target: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Equation 7 of the paper for one sample: b = (p_t, 1 - p_t), p-hat = softmax over the other classes."""
    ours, theirs = probabilities(student, temperature), probabilities(teacher, temperature)
    binary = divergence(*([p[target], sum(p[:target] + p[target + 1 :])] for p in (theirs, ours)))
    others = [torch.cat([z[:target], z[target + 1 :]]) for z in (teacher, student)]
    rest = divergence(*(probabilities(z, temperature) for z in others))
    return temperature**2 * binary, temperature**2 * rest


@pytest.mark.equation
def test_dkd_is_the_papers_equation() -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    method = registry.create("dkd")
    method.epoch, method.epochs = 240, 240
    parts = [decoupled(z[i], teacher[i], int(data.targets[i]), 4.0) for i in range(BATCH)]
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "tckd": mean(part[0] for part in parts),
        "nckd": 8 * mean(part[1] for part in parts),
    }
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


def test_dkd_with_equal_weights_of_the_classical_form_is_kd() -> None:
    """KD = TCKD + (1 - p_t of the teacher) NCKD, for each sample."""
    z, teacher = logits(size=1), logits(size=1).detach()
    data = batch(size=1)
    method = registry.create("dkd", {"beta": 1.0})
    terms = method.loss(data, output(z), output(teacher))
    share = 1 - F.softmax(teacher / 4, dim=1)[0, data.targets[0]]
    close(terms["tckd"] + share * terms["nckd"], kl(z[0], teacher[0], 4.0))


def test_dkds_second_term_masks_the_target_with_minus_1000_as_mdistiller_does() -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    mask = 1000.0 * F.one_hot(data.targets, CLASSES)
    target = F.softmax(teacher / 4 - mask, dim=1)
    expected = F.kl_div(F.log_softmax(z / 4 - mask, dim=1), target, reduction="sum") * 16 / BATCH
    close(registry.create("dkd").loss(data, output(z), output(teacher))["nckd"], 8 * expected)


@pytest.mark.parametrize("epoch", [1, 7, 19, 20, 21, 240])
def test_dkd_warms_up_as_the_paper_does_over_240_epochs(epoch: int) -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    method = registry.create("dkd")
    full = method.loss(data, output(z), output(teacher))
    method.epoch, method.epochs = epoch, 240
    terms = method.loss(data, output(z), output(teacher))
    ramp = min(epoch / 20, 1.0)
    assert torch.equal(terms["ce"], full["ce"])
    close(terms["tckd"], ramp * full["tckd"])
    close(terms["nckd"], ramp * full["nckd"])


def test_dkd_with_two_classes_has_nothing_within_the_rest_and_finite_gradients() -> None:
    z, teacher, data = logits(2), logits(2).detach(), batch(2)
    terms = registry.create("dkd").loss(data, output(z), output(teacher))
    assert terms["nckd"] == 0
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()


def test_dkd_stays_finite_for_very_confident_networks() -> None:
    z = (500 * torch.eye(CLASSES, dtype=torch.float32)).requires_grad_()
    teacher = 500 * torch.eye(CLASSES, dtype=torch.float32).flip(0)
    terms = registry.create("dkd").loss(batch(size=CLASSES), output(z), output(teacher))
    assert all(term.isfinite() for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()

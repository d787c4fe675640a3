"""pad weighs each value of the embedding by a learned variance, after a warm-up by plain l2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    embedded,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    network,
    normed,
    squares,
)
from torch import nn

from kdbench import Method, Output, registry


def built(ours: int, theirs: int, **options: Any) -> Any:
    method = registry.create("pad", options)
    method.build(network(embedding=ours), network(embedding=theirs))
    method.epoch, method.epochs = 240, 240
    return method


@pytest.mark.equation
def test_pad_agrees_with_torchdistill_in_value_and_gradient() -> None:
    golden = goldens.load("pad")
    method = built(12, 12)
    goldens.load_parameters(method.log_variance, golden, "var_estimator.")
    student, teacher = (goldens.output(embedding=golden[f"feat_{side}"]) for side in "st")
    goldens.require(student.embedding)
    term = method.loss(goldens.batch(), student, teacher)["adaptive"]
    goldens.close(term, golden["loss"])
    goldens.gradients_agree(
        term, {"feat_s": student.embedding}, {"var_estimator.": method.log_variance}, golden, atol=1e-13
    )


@pytest.mark.equation
def test_pads_warm_up_agrees_with_torchdistill() -> None:
    golden = goldens.load("pad")
    method = built(12, 12, l2_weight=1.0)
    method.epoch = 1
    terms = method.loss(goldens.batch(), *(goldens.output(embedding=golden[f"feat_{side}"]) for side in "st"))
    goldens.close(terms["l2"], golden["loss_l2"])


@pytest.mark.equation
@pytest.mark.parametrize("epoch", [80, 81])
def test_pad_projects_a_student_of_another_width_first(epoch: int) -> None:
    method = built(3, 4, weight=2.0, l2_weight=5.0)
    method.epoch = epoch
    student, teacher = embedded(3, trained=True), embedded(4)
    linear, norm = method.log_variance
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    projected = torch.stack([method.embed.weight @ e + method.embed.bias for e in student.embedding])
    u = normed(norm, torch.stack([linear.weight @ e + linear.bias for e in projected]))
    weighed = mean(
        (t - s) ** 2 / (1e-6 + torch.exp(v)) + v
        for t, s, v in zip(teacher.embedding.flatten(), projected.flatten(), u.flatten(), strict=True)
    )
    l2 = {"l2": 5 * squares(teacher.embedding, projected)}
    expected = {"ce": labels(student.logits, batch()), **(l2 if epoch == 80 else {"adaptive": 2 * weighed})}
    tensors = [student.logits, student.embedding, *method.embed.parameters()]
    tensors += [] if epoch == 80 else [*method.log_variance.parameters()]
    agree(method.loss(batch(), student, teacher), expected, tensors)


@pytest.mark.parametrize(
    ("share", "epochs", "l2"),
    [(1 / 3, 240, 80), (1 / 3, 6, 2), (1 / 3, 2, 0), (0.0, 240, 0), (1.0, 240, 240), (0.1, 240, 24)],
)
def test_pad_warms_up_by_l2_for_a_share_of_the_training(share: float, epochs: int, l2: int) -> None:
    method = built(3, 3, warmup_share=share)
    method.epochs, student, teacher = epochs, embedded(3), embedded(3)
    named = []
    for method.epoch in range(1, epochs + 1):
        named.append(list(method.loss(batch(), student, teacher)))
    assert named == [["ce", "l2"]] * l2 + [["ce", "adaptive"]] * (epochs - l2)


def test_pads_defaults_are_those_of_torchdistills_configuration_and_a_third_of_the_training() -> None:
    method = registry.create("pad")
    assert (method.weight, method.l2_weight, method.ce_weight, method.warmup_share) == (1.0, 15.0, 1.0, 1 / 3)


def test_pad_adds_no_projection_where_the_widths_agree() -> None:
    assert not list(built(3, 3).embed.parameters())


def test_pad_counts_less_what_the_student_is_uncertain_of() -> None:
    method = built(2, 2)
    student, teacher = embedded(2, trained=True), embedded(2)
    nn.init.zeros_(method.log_variance[1].weight)
    pulls = []
    for bias in (0.0, 3.0):
        nn.init.constant_(method.log_variance[1].bias, bias)
        term = method.loss(batch(), student, teacher)["adaptive"]
        pulls.append(torch.autograd.grad(term, student.embedding)[0])
    close(pulls[1], pulls[0] * (1 + 1e-6) / (torch.tensor(3.0).exp() + 1e-6))


def trained_on(method: Method, scale: float, size: int) -> None:
    student, teacher = (Output(logits(size=size), scale * torch.randn(size, 3)) for _ in range(2))
    student.embedding.requires_grad_()
    terms = method.loss(batch(size=size), student, teacher)
    assert all(term.isfinite() for term in terms.values())
    found = torch.autograd.grad(sum(terms.values()), [student.embedding, *method.parameters()])
    assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("size", [1, 2, BATCH])
def test_pad_is_finite_where_the_batch_says_little(size: int, scale: float) -> None:
    torch.set_default_dtype(torch.float32)
    trained_on(built(3, 3), scale, size)


def test_pad_under_autocast_is_float32() -> None:
    torch.set_default_dtype(torch.float32)
    method, student, teacher = built(3, 4), embedded(3), embedded(4)
    plain = method.loss(batch(), student, teacher)["adaptive"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = method.loss(batch(), student, teacher)["adaptive"]
    assert term.dtype == torch.float32
    assert torch.equal(term, plain)

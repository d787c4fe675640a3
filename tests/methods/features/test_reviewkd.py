"""reviewkd is mdistiller's review of fused maps, warmed up over 20 of 240 epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    network,
    output,
)

from kdbench import Output, registry


@pytest.mark.equation
def test_reviewkd_agrees_with_mdistiller_in_value_and_gradient() -> None:
    golden = goldens.load("reviewkd")
    ours = [golden[f"feat_s_{k}"] for k in range(3)]
    theirs = [golden[f"feat_t_{k}"] for k in (1, 2, 3)]  # 0 is the stem
    goldens.require(*ours, golden["pooled_s"])
    method = registry.create("reviewkd")
    method.build(goldens.network(ours), goldens.network([], preactivations=theirs, embedding=golden["pooled_t"]))
    method.double()
    goldens.load_parameters(method.fusion, golden, "")
    student = goldens.output(features=ours, embedding=golden["pooled_s"])
    teacher = goldens.output(preactivations=theirs, embedding=golden["pooled_t"])
    method.epoch, method.epochs = 20, 240
    loss = method.loss(goldens.batch(), student, teacher)["review"]
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {**goldens.named(ours), "pooled_s": student.embedding}, {"": method.fusion}, golden)


def test_reviewkd_warms_up_over_the_first_20_of_240_epochs() -> None:
    golden = goldens.load("reviewkd")
    ours, theirs = [golden[f"feat_s_{k}"] for k in range(3)], [golden[f"feat_t_{k}"] for k in (1, 2, 3)]
    method = registry.create("reviewkd")
    method.build(goldens.network(ours), goldens.network(theirs))
    method.double()
    goldens.load_parameters(method.fusion, golden, "")
    student = goldens.output(features=ours, embedding=golden["pooled_s"])
    teacher = goldens.output(features=theirs, embedding=golden["pooled_t"])
    method.epoch, method.epochs = 5, 240
    goldens.close(method.loss(goldens.batch(), student, teacher)["review"], golden["loss"] / 4)


def fused() -> tuple[Any, Output, Output]:
    """A method on pairs of maps, ready to be called."""
    shapes = ((3, 8, 8), (4, 4, 4)), ((5, 8, 8), (6, 4, 4))
    method = registry.create("reviewkd")
    method.build(network(*shapes[0], embedding=4), network(*shapes[1], embedding=6))
    student = output(features=maps(*shapes[0], trained=True), embedding=torch.randn(BATCH, 4))
    return method, student, output(logits().detach(), maps(*shapes[1]), torch.randn(BATCH, 6))


@pytest.mark.parametrize(
    ("epoch", "epochs", "ramp"), [(1, 240, 1 / 20), (7, 240, 7 / 20), (20, 240, 1), (240, 240, 1), (1, 24, 1 / 2)]
)
def test_reviewkd_warms_up_over_20_of_240_epochs(epoch: int, epochs: int, ramp: float) -> None:
    method, student, teacher = fused()
    method.epoch, method.epochs = epochs, epochs
    full = method.loss(batch(), student, teacher)
    method.epoch = epoch
    terms = method.loss(batch(), student, teacher)
    close(terms["review"], ramp * full["review"])
    assert all(torch.equal(terms[other], full[other]) for other in terms if other != "review")


def test_reviewkd_adds_cross_entropy() -> None:
    method, student, teacher = fused()
    method.epoch, method.epochs = 1, 240  # which the warm-up does not touch
    close(method.loss(batch(), student, teacher)["ce"], labels(student.logits, batch()))

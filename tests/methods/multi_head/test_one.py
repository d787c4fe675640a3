"""one is the paper's equation: branches that learn from their gated ensemble."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    Fixed,
    activations,
    agree,
    batch,
    close,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    network,
    output,
    pooled,
    probabilities,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, Output, registry
from kdbench.methods.multi_head.one import ensemble_kl
from kdbench.tasks.image.networks import create

MAPS = ((3, 8, 8), (4, 4, 4), (5, 2, 2))


class Tail(nn.Module):
    """A last stage that reads the pooled map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Output:
        return output(self.linear(x.mean((2, 3))))


def one(**hyperparameters: Any) -> tuple[Any, Tail]:
    tail = Tail(MAPS[-2][0])
    method = registry.create("one", hyperparameters)
    method.build(network(*MAPS, tail=lambda stage: tail if stage == 2 else None), None)
    return method, tail


@pytest.mark.equation
def test_ones_divergence_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("one_kl")
    goldens.require(golden["logits_s"])
    loss = ensemble_kl(golden["logits_s"], golden["logits_t"], 3.0)
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"logits_s": golden["logits_s"]}, {}, golden)


@pytest.mark.equation
def test_one_is_the_papers_equation() -> None:
    method, _ = one()
    method.epoch, method.epochs = 41, 300
    features, z, data = activations(*MAPS), logits(), batch()
    entering = pooled(features[1])
    branches = [z, *(entering @ branch.linear.weight.T + branch.linear.bias for branch in method.branches.others)]
    linear, norm, _ = method.branches.gate
    scores = entering @ linear.weight.T + linear.bias  # [B, 3]
    centred = scores - scores.mean(0)
    scores = norm.weight * centred / torch.sqrt(centred.pow(2).mean(0) + 1e-5) + norm.bias
    gate = torch.stack([torch.stack(probabilities(row.clamp(min=0))) for row in scores])
    ensemble = sum(gate[:, i, None] * branches[i] for i in range(3))

    def raised(n: int) -> list[Tensor]:
        return [p + 1e-7 for p in probabilities(ensemble[n].detach(), 3.0)]

    def learned(branch: Tensor) -> Tensor:
        return mean(9 * divergence(raised(n), probabilities(branch[n], 3.0)) for n in range(BATCH))

    expected = {
        "ce": sum(labels(branch, data) for branch in branches),
        "ensemble": labels(ensemble, data),
        "kd": math.exp(-5 * (1 - 40 / 80) ** 2) * sum(learned(branch) for branch in branches),
    }
    terms = method.loss(data, output(z, features), None)
    agree(terms, expected, [z, features[1], *method.parameters()])


@pytest.mark.parametrize(("epoch", "ramp"), [(1, math.exp(-5)), (41, math.exp(-1.25)), (81, 1.0), (300, 1.0)])
def test_ones_ramp_takes_80_of_300_epochs(epoch: int, ramp: float) -> None:
    method, _ = one()
    method.epoch, method.epochs = epoch, 300
    assert method.ramp() == pytest.approx(ramp, rel=1e-12)


def test_ones_ramp_may_be_left_out() -> None:
    assert one(ramp_share=0.0)[0].ramp() == 1.0


def test_ones_gate_learns_from_the_ensembles_labels_alone() -> None:
    method, _ = one()
    terms = method.loss(batch(), output(logits(), activations(*MAPS)), None)
    gate = list(method.branches.gate.parameters())
    from_kd = torch.autograd.grad(terms["kd"] + terms["ce"], gate, retain_graph=True, allow_unused=True)
    assert from_kd == (None,) * len(gate)
    assert torch.autograd.grad(terms["ensemble"], gate)[0].any()


def test_ones_branches_start_from_the_students_values_in_another_order() -> None:
    method, tail = one(n_branches=4)
    assert len(method.branches.others) == 3
    own = tail.linear.weight
    weights = [own, *(branch.linear.weight for branch in method.branches.others)]
    for i, weight in enumerate(weights):
        assert torch.equal(weight.flatten().sort().values, own.flatten().sort().values)
        assert not any(torch.equal(weight, other) for other in weights[:i])


def test_ones_branches_follow_the_last_but_one_stage_of_a_real_network() -> None:
    torch.set_default_dtype(torch.float32)
    student = create("cifar_resnet8", num_classes=CLASSES, in_chans=3, input_size=(3, 16, 16))
    method = registry.create("one")
    method.build(student, None)
    last = sum(p.numel() for p in student.tail(2).parameters())
    for branch in method.branches.others:
        assert sum(p.numel() for p in branch.parameters()) == last
        assert not set(branch.parameters()) & set(student.parameters())


def test_one_deploys_the_student_or_the_gated_ensemble() -> None:
    features, z = activations(*MAPS), logits()
    student = Fixed(output(z, features))
    assert one()[0].deploy(student) is student
    method, _ = one(deployment="ensemble")
    deployed = method.deploy(student).eval()
    entering = pooled(features[1])
    branches = torch.stack([z, *(branch(features[1]).logits for branch in method.branches.others)])  # [3, B, K]
    gate = method.branches.gate(entering).softmax(1)
    close(deployed(torch.zeros(BATCH, 1)), (gate.T[:, :, None] * branches).sum(0))


def test_a_student_of_one_stage_has_no_place_for_branches() -> None:
    with pytest.raises(NotApplicable, match=r"^one .*'some' has one"):
        registry.create("one").build(network((3, 4, 4)), None)


@pytest.mark.parametrize("option", [{"n_branches": 1}, {"deployment": "mean"}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^one.*{next(iter(option.values()))}"):
        registry.create("one", option)

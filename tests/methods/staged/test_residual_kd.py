"""residual_kd's assistant learns what the student misses, and both cost no more than the plain student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    Fixed,
    activations,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    mean,
    network,
    output,
    pooled,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, registry
from kdbench.tasks.image.networks import create
from kdbench.testing.trial import Bench
from kdbench.training.cost import deployed_cost

MAPS = ((3, 8, 8), (4, 4, 4), (5, 2, 2))


def residual(theirs: Sequence[tuple[int, ...]]) -> tuple[Any, list[Tensor], list[Tensor], list[Tensor]]:
    method = registry.create("residual_kd")
    narrow = tuple((c - 1, *space) for c, *space in MAPS)
    teacher = network(*theirs)
    method.build([network(*MAPS), network(*narrow)], teacher)
    return method, activations(*MAPS), activations(*narrow), [each.detach() for each in activations(*theirs)]


def normalised(adapter: nn.Sequential, feature: Tensor) -> Tensor:
    """A 1x1 convolution and BatchNorm in train mode, as matrix products."""
    conv, norm = adapter
    mixed = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], feature)
    centred = mixed - mixed.mean((0, 2, 3), keepdim=True)
    scaled = centred / torch.sqrt(centred.pow(2).mean((0, 2, 3), keepdim=True) + 1e-5)
    return norm.weight[:, None, None] * scaled + norm.bias[:, None, None]


@pytest.mark.equation
def test_residual_kds_assistant_learns_what_the_student_misses() -> None:
    theirs = ((6, 8, 8), (7, 4, 4), (8, 2, 2))
    method, ours, others, goal = residual(theirs)
    data, head = batch(), method.head
    feature, rest = torch.zeros(()), torch.zeros(())
    for k in range(3):
        near, extra = normalised(method.phi[k], ours[k]), normalised(method.psi[k], others[k])
        feature = feature + mean(((near - goal[k]) ** 2).flatten())
        rest = rest + mean(((extra - (goal[k] - near.detach())) ** 2).flatten())
    alone = pooled(near)
    together = alone.detach() + pooled(extra)
    expected = {
        "ce": labels(alone @ head.weight.T + head.bias, data),
        "feature": 100 * feature,
        "fused": labels(together @ head.weight.T + head.bias, data),
        "residual": 100 * rest,
    }
    students = [output(features=ours), output(features=others)]
    terms = method.loss(data, students, output(features=goal))
    agree(terms, expected, [*ours, *others, *method.parameters()])


def test_residual_kds_student_learns_nothing_from_the_assistants_terms() -> None:
    method, ours, others, goal = residual(MAPS)
    terms = method.loss(batch(), [output(features=ours), output(features=others)], output(features=goal))
    assistants = terms["fused"] + terms["residual"]
    found = torch.autograd.grad(assistants, [*ours, *method.phi.parameters()], allow_unused=True, retain_graph=True)
    assert set(found) == {None}
    students = torch.autograd.grad(terms["ce"] + terms["feature"], others, allow_unused=True)
    assert set(students) == {None}


def test_residual_kd_pairs_stages_from_the_deepest_on_and_pools_the_larger_map() -> None:
    method, ours, others, goal = residual(((7, 2, 2), (8, 4, 4)))
    assert len(method.phi) == len(method.psi) == 2
    close(
        method.loss(batch(), [output(features=ours), output(features=others)], output(features=goal))["feature"],
        100
        * (
            F.mse_loss(F.adaptive_avg_pool2d(normalised(method.phi[0], ours[1]), 2), goal[0])
            + F.mse_loss(normalised(method.phi[1], ours[2]), F.adaptive_avg_pool2d(goal[1], 2))
        ),
    )


def test_residual_kd_deploys_what_it_trained_for() -> None:
    method, ours, others, goal = residual(MAPS)
    students = [output(features=ours), output(features=others)]
    for _ in range(3):  # running statistics that are not the initial ones
        method.loss(batch(), students, output(features=goal))
    method.eval()
    terms = method.loss(batch(), students, output(features=goal))
    deployed = method.deploy([Fixed(each) for each in students]).eval()
    close(F.cross_entropy(deployed(torch.zeros(BATCH, 1)), batch().targets), terms["fused"])


PAIRS = [
    ("cifar_resnet56", "cifar_resnet20"),
    ("cifar_resnet32x4", "cifar_resnet8x4"),
    ("cifar_wrn_40_2", "cifar_wrn_16_2"),
    ("cifar_vgg13", "cifar_vgg8"),
]


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_residual_kds_two_networks_cost_no_more_than_the_plain_student(teacher: str, student: str) -> None:
    torch.set_default_dtype(torch.float32)

    def built(name: str, **options: float) -> Any:
        return create(name, num_classes=100, in_chans=3, input_size=(3, 32, 32), **options)

    method = registry.create("residual_kd")
    widths = [float(role.removeprefix("student*")) for role in method.members()]
    students = [built(student, width_factor=width) for width in widths]
    method.bind(students, [built(teacher)])
    example = torch.zeros(1, 3, 32, 32)
    both, plain = (deployed_cost(module, example) for module in (method.deployed(students), built(student)))
    for key in ("deployed_macs", "deployed_parameters"):
        assert 0.8 * plain[key] < both[key] <= plain[key], key


def test_residual_kd_needs_a_student_that_can_be_made_narrower(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    bench = Bench(tmp_path, student="cifar_shufflenetv2")
    with pytest.raises(NotApplicable, match="residual_kd needs a student of another width: network 'cifar_shufflenetv"):
        bench.learner(bench.cell("residual_kd"))


@pytest.mark.parametrize("option", [{"assistant_width": 0.5}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^residual_kd.*{next(iter(option.values()))}"):
        registry.create("residual_kd", option)

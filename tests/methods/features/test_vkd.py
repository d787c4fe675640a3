"""vkd is the authors' smooth l1 distance behind a projector with orthonormal columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    bfloat16_terms,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    maps,
    mean,
    network,
    output,
    pooled,
)
from torch import Tensor

from kdbench import registry


def vkd(student: tuple[int, ...], teacher: tuple[int, ...], **options: Any) -> Any:
    method = registry.create("vkd", options)
    method.build(network(student), network(teacher))
    return method


@pytest.mark.equation
def test_vkd_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("vkd")
    method = vkd((8, 3, 3), (12, 3, 3)).double()
    prefix = "parametrizations.weight."
    method.projector.load_state_dict(
        {f"{prefix}original": golden["param__original"], f"{prefix}1.base": golden["param__base"]}
    )
    goldens.close(method.projector.weight, golden["param__projector_weight"])
    tokens = golden["tokens_s"].requires_grad_()
    ours = tokens.transpose(1, 2).unflatten(2, (3, 3))  # [B, C, H, W], as networks here give a ViT's tokens
    student, teacher = (goldens.output(features=[f]) for f in (ours, golden["map_t"]))
    term = method.loss(goldens.batch(), student, teacher)["feature"]
    goldens.close(term, golden["loss"])
    original = method.projector.parametrizations.weight.original
    for gradient, name in zip(
        torch.autograd.grad(term, [tokens, original]), ("grad__tokens_s", "gradp__original"), strict=True
    ):
        goldens.close(gradient, golden[name])


def smooth(difference: Tensor) -> Tensor:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def standardised(row: Tensor) -> Tensor:
    rest = row - sum(row) / len(row)
    return rest / torch.sqrt(sum(value**2 for value in rest) / len(row) + 1e-5)


@pytest.mark.equation
@pytest.mark.parametrize("width", [3, 5], ids=["a wider teacher", "a wider student"])
def test_vkd_is_the_papers_equation(width: int) -> None:
    options = {"weight": 2.0, "kd_weight": 0.5, "temperature": 3.0, "ce_weight": 0.7}
    method = vkd((width, 2, 2), (4, 3, 3), **options)
    z, teacher = logits(), logits().detach()
    (ours,), (theirs,) = maps((width, 2, 2), trained=True), maps((4, 3, 3))
    weight = method.projector.weight
    distances = []
    for h, g in zip(pooled(ours), pooled(theirs), strict=True):
        differences = torch.stack([sum(row * h) for row in weight]) - standardised(g)
        distances.append(mean(smooth(difference) for difference in differences))
    expected = {
        "ce": 0.7 * labels(z, batch()),
        "kd": 0.5 * imitation(z, teacher, 3.0),
        "feature": 2 * mean(distances),
    }
    tensors = [z, ours, *method.parameters()]
    agree(method.loss(batch(), output(z, [ours]), output(teacher, [theirs])), expected, tensors)


@pytest.mark.parametrize(("student", "teacher"), [(3, 6), (4, 4), (6, 3)])
def test_vkds_projector_stays_orthonormal_under_weight_decay(student: int, teacher: int) -> None:
    method = vkd((student, 2, 2), (teacher, 2, 2))
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        outputs = (output(features=maps((channels, 2, 2))) for channels in (student, teacher))
        sum(method.loss(batch(), *outputs).values()).backward()
        optimizer.step()
    weight = method.projector.weight
    gram = weight.T @ weight if teacher >= student else weight @ weight.T
    close(gram, torch.eye(min(student, teacher)))


def test_vkds_defaults_are_those_of_the_authors_code() -> None:
    method = registry.create("vkd")
    assert (method.weight, method.kd_weight, method.temperature, method.ce_weight) == (1.0, 1.0, 1.0, 1.0)


def test_vkd_of_equal_values_has_finite_gradients() -> None:
    method = vkd((3, 2, 2), (4, 2, 2))
    ours = torch.ones(BATCH, 3, 2, 2, requires_grad=True)
    term = method.loss(batch(), output(features=[ours]), output(features=[torch.ones(BATCH, 4, 2, 2)]))["feature"]
    assert term.isfinite()
    assert torch.autograd.grad(term, ours)[0].isfinite().all()


def test_vkd_under_autocast_is_float32() -> None:
    assert {term.dtype for term in bfloat16_terms("vkd").values()} == {torch.float32}

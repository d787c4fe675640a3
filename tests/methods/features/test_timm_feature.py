"""timm_feature is timm's feature task: the teacher's embedding by a mean square, through one linear layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    agree,
    batch,
    embedded,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    network,
    squares,
)
from torch import nn

from kdbench import registry


def timm_feature(student: int, teacher: int, **options: Any) -> Any:
    method = registry.create("timm_feature", options)
    method.build(network(embedding=student), network(embedding=teacher))
    return method


@pytest.mark.equation
def test_timm_feature_agrees_with_timm_in_value_and_gradient() -> None:
    golden = goldens.load("deit_timm")
    method = timm_feature(12, 16, distill_weight=5.0)
    goldens.load_parameters(method.projection, golden, "projection.")
    goldens.require(golden["feat_s"])
    terms = method.loss(
        goldens.batch(golden["target"]),
        goldens.output(golden["logits_s"], embedding=golden["feat_s"]),
        goldens.output(embedding=golden["feat_t"]),
    )
    total = sum(terms.values())
    goldens.close(terms["feature"] / 5, golden["loss_timm_feature_kd"])
    goldens.close(total, golden["loss_timm_feature"])
    inputs = {"feat_s_timm_feature": golden["feat_s"]}
    goldens.gradients_agree(total, inputs, {"projection.": method.projection}, golden)


@pytest.mark.equation
@pytest.mark.parametrize("width", [3, 4])
def test_timm_feature_projects_where_the_widths_differ(width: int) -> None:
    method = timm_feature(3, width, task_weight=0.6, distill_weight=2.0)
    student, teacher = embedded(3, trained=True), embedded(width)
    ours = student.embedding
    if width != 3:
        ours = torch.stack([method.projection.weight @ e + method.projection.bias for e in ours])
    expected = {"ce": 0.6 * labels(student.logits, batch()), "feature": 2 * squares(ours, teacher.embedding)}
    tensors = [student.logits, student.embedding, *method.parameters()]
    agree(method.loss(batch(), student, teacher), expected, tensors)


def test_timm_feature_of_equal_widths_trains_nothing_of_its_own() -> None:
    assert isinstance(timm_feature(5, 5).projection, nn.Identity)


def test_timm_features_weights_are_both_1_by_default() -> None:
    method = registry.create("timm_feature")
    assert (method.task_weight, method.distill_weight) == (1.0, 1.0)


def test_timm_feature_under_autocast_is_float32() -> None:
    torch.set_default_dtype(torch.float32)
    method = timm_feature(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.loss(batch(), embedded(3), embedded(4))["feature"].dtype == torch.float32

"""timm_logit is timm's logit task, and its weights follow timm's rule."""

from __future__ import annotations

from typing import Any

import pytest
from support import goldens
from support.loops import (
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    output,
)

from kdbench import registry

WEIGHTS = [
    ({}, 1.0, 1.0),
    ({"task_weight": 0.3}, 0.3, 0.7),
    ({"distill_weight": 5.0}, 1.0, 5.0),
    ({"task_weight": 0.5, "distill_weight": 0.2}, 0.5, 0.2),
    ({"task_weight": 0.0}, 0.0, 1.0),
    ({"distill_weight": 0.0}, 1.0, 0.0),
]


@pytest.mark.equation
def test_timm_logit_agrees_with_timm_in_value_and_gradient() -> None:
    golden = goldens.load("deit_timm")
    method = registry.create("timm_logit", {"task_weight": 0.3, "temperature": 4.0})
    goldens.require(golden["logits_s"])
    terms = method.loss(
        goldens.batch(golden["target"]), goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    )
    total = sum(terms.values())
    goldens.close(terms["kd"] / 0.7, golden["loss_timm_logit_kd"])
    goldens.close(total, golden["loss_timm_logit"])
    goldens.gradients_agree(total, {"logits_s_timm_logit": golden["logits_s"]}, {}, golden)


@pytest.mark.equation
@pytest.mark.parametrize(("options", "task", "distill"), WEIGHTS)
def test_timm_logit_weighs_labels_and_teacher_by_timms_rule(
    options: dict[str, Any], task: float, distill: float
) -> None:
    z, teacher = logits(), logits().detach()
    method = registry.create("timm_logit", {**options, "temperature": 2.0})
    expected = {"ce": task * labels(z, batch()), "kd": distill * imitation(z, teacher, 2.0)}
    agree(method.loss(batch(), output(z), output(teacher)), expected, [z])


def test_timm_logits_default_temperature_is_1() -> None:
    assert registry.create("timm_logit").temperature == 1.0

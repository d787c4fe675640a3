"""tf_kd is the divergence from a virtual teacher, as the equation's loops and the official multiplier have it."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    probabilities,
)
from torch import nn

from kdbench import registry


@pytest.mark.equation
@pytest.mark.parametrize("options", [{}, {"alpha": 0.95, "temperature": 40.0, "correct": 0.9, "weight": 0.01}])
def test_tf_kd_learns_from_a_virtual_teacher_that_is_right_with_a_fixed_probability(options: dict[str, float]) -> None:
    given = {"alpha": 0.1, "temperature": 20.0, "correct": 0.99, "weight": 1.0, **options}
    z, data = logits(), batch()
    virtual = []
    for b in range(BATCH):
        right, wrong = given["correct"], (1 - given["correct"]) / (CLASSES - 1)
        v = torch.tensor([right if c == data.targets[b] else wrong for c in range(CLASSES)])
        virtual.append(divergence(probabilities(v, given["temperature"]), probabilities(z[b])))
    expected = {
        "ce": (1 - given["alpha"]) * labels(z, data),
        "virtual": given["alpha"] * given["weight"] * mean(virtual),
    }
    agree(registry.create("tf_kd", options).loss(data, output(z), None), expected, [z])


def test_tf_kds_weight_is_the_official_multiplier_over_the_number_of_classes() -> None:
    """The official code takes nn.KLDivLoss's mean over samples and classes, times 100 for resnet18 on CIFAR-100."""
    z, data = logits(100), batch(100)
    virtual = torch.full((BATCH, 100), 0.01 / 99).scatter(1, data.targets[:, None], 0.99)
    official = nn.KLDivLoss(reduction="none")(z.log_softmax(1), (virtual / 20).softmax(1)).mean() * 100
    close(registry.create("tf_kd").loss(data, output(z), None)["virtual"], 0.1 * official)

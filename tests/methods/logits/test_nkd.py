"""nkd teaches the target and the normalised others, as plain loops have it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support.loops import (
    BATCH,
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import registry


def without(values: Sequence[Tensor], target: int) -> list[Tensor]:
    return [value for c, value in enumerate(values) if c != target]


def normalised(values: Sequence[Tensor]) -> list[Tensor]:
    return [value / sum(values) for value in values]


@pytest.mark.equation
@pytest.mark.parametrize("options", [{}, {"gamma": 0.5, "temperature": 2.0}])
def test_nkd_teaches_the_target_by_its_probability_and_the_others_normalised(options: dict[str, float]) -> None:
    gamma, temperature = {"gamma": 1.5, "temperature": 1.0, **options}.values()
    z, teacher, data = logits(), logits().detach(), batch()
    target, others = [], []
    for b in range(BATCH):
        y = int(data.targets[b])
        target.append(-probabilities(teacher[b])[y] * torch.log(probabilities(z[b])[y]))
        ours, theirs = (normalised(without(probabilities(x[b], temperature), y)) for x in (z, teacher))
        others.append(-sum(t * torch.log(s) for t, s in zip(theirs, ours, strict=True)))
    expected = {"ce": labels(z, data), "target": mean(target), "others": gamma * temperature**2 * mean(others)}
    agree(registry.create("nkd", options).loss(data, output(z), output(teacher)), expected, [z])

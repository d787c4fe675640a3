"""ttm and wttm match the teacher's probabilities raised to a power, as plain loops have it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import registry


def normalised(values: Sequence[Tensor]) -> list[Tensor]:
    return [value / sum(values) for value in values]


@pytest.mark.equation
@pytest.mark.parametrize("options", [{}, {"power": 0.5, "weight": 3.0}])
@pytest.mark.parametrize(("name", "defaults"), [("ttm", (0.1, 45.0)), ("wttm", (0.2, 4.0))])
def test_ttm_matches_the_teachers_probabilities_raised_to_a_power(
    name: str, defaults: tuple[float, float], options: dict[str, float]
) -> None:
    power, weight = options.values() if options else defaults
    z, teacher, data = logits(), logits().detach(), batch()
    matches = []
    for b in range(BATCH):
        raised = [p**power for p in probabilities(teacher[b])]
        scale = sum(raised) if name == "wttm" else 1.0
        matches.append(scale * divergence(normalised(raised), probabilities(z[b])))
    expected = {"ce": labels(z, data), "match": weight * mean(matches)}
    method = registry.create(name, options)
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


@pytest.mark.parametrize("name", ["ttm", "wttm"])
def test_ttm_without_a_power_is_kd_at_temperature_1(name: str) -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    match = registry.create(name, {"power": 1.0, "weight": 1.0}).loss(data, output(z), output(teacher))["match"]
    close(match, mean(kl(z[b], teacher[b], 1.0) for b in range(BATCH)))

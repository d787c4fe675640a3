"""ctkd learns its temperature against the student, by a gradient that is reversed along a cosine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.loops import (
    BATCH,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    mean,
    network,
    output,
    total,
)

from kdbench import registry
from kdbench.testing.trial import Bench


@pytest.mark.equation
@pytest.mark.parametrize(
    ("epoch", "epochs", "progress"), [(1, 240, 0.1), (5, 240, 0.5), (10, 240, 1), (11, 240, 1), (2, 96, 0.5)]
)
def test_ctkd_reverses_the_temperatures_gradient_along_a_cosine_over_10_of_240_epochs(
    epoch: int, epochs: int, progress: float
) -> None:
    method = registry.create("ctkd")
    method.build(network(), network())
    method.epoch, method.epochs = epoch, epochs
    z, teacher, data = logits(), logits().detach(), batch()
    theta = torch.tensor(1.0, requires_grad=True)
    temperature = 1 + 20 / (1 + torch.exp(-theta))
    divergences = mean(kl(z[b], teacher[b], temperature) for b in range(BATCH))
    expected = {"ce": 0.1 * labels(z, data), "kd": 0.9 * divergences}
    terms = method.loss(data, output(z), output(teacher))
    for name, term in terms.items():
        close(term, expected[name])
    ours = torch.autograd.grad(total(terms), [z, method.theta])
    theirs = torch.autograd.grad(total(expected), [z, theta])
    close(ours[0], theirs[0])
    close(ours[1], (math.cos(math.pi * progress) - 1) / 2 * theirs[1].reshape(1))
    assert theirs[1] != 0


def test_ctkds_temperature_starts_at_theta_1_and_trains_with_the_student() -> None:
    method = registry.create("ctkd", {"start": 2.0, "span": 10.0})
    method.build(network(), network())
    close(method.temperature(), 2 + 10 / (1 + torch.exp(-torch.ones(1))))
    assert [name for name, _ in method.named_parameters()] == ["theta"]


def test_ctkds_temperature_is_in_the_curve(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    bench = Bench(tmp_path, epochs=2)
    curve = bench.run([bench.cell("ctkd")])[0]["curve"]
    temperatures = [point["watched"]["temperature"] for point in curve]
    assert all(1 < temperature < 21 for temperature in temperatures)
    assert temperatures[0] != temperatures[1]

"""What a step does on the host is seen: random numbers, numbers and containers in Python, tensors that are replaced."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.seeding import seeded
from kdbench.training.hostside import Host


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(2))
        self.count, self.nan, self.seen = 0, float("nan"), [1, {"a": 2}]
        self.held, self.names, self.other = torch.zeros(2), {"x"}, SimpleNamespace(step=1)
        self.generator, self.call = torch.Generator(), print
        self.loop: list[Any] = []
        self.loop.append(self.loop)


def said(work: Callable[[Any, Any], object], device: str = "cpu") -> str:
    layer = Layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer.linear(torch.ones(2)).sum().backward()
    optimizer.step()
    with seeded("host"):
        host = Host({"method": layer}, optimizer, torch.device(device))
        work(layer, optimizer)
        return host.changed()


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (lambda m, o: random.random(), "it draws random numbers on the host"),
        (lambda m, o: np.random.rand(), "it draws random numbers on the host"),
        (lambda m, o: torch.randperm(3), "it draws random numbers on the host"),
        (lambda m, o: setattr(m, "count", 1), "'method.count'"),
        (lambda m, o: setattr(m, "count", 0.0), "'method.count'"),
        (lambda m, o: setattr(m, "fresh", 1), "'method.fresh'"),
        (lambda m, o: m.seen.append(3), "'method.seen"),
        (lambda m, o: m.seen[1].update(a=3), "'method.seen.1.a'"),
        (lambda m, o: m.names.add("y"), "'method.names'"),
        (lambda m, o: setattr(m.other, "step", 2), "'method.other.step'"),
        (lambda m, o: setattr(m, "held", m.held + 1), "'method.held'"),
        (lambda m, o: setattr(m, "mean", m.mean * 0.9), "'method._buffers.mean'"),
        (lambda m, o: torch.rand(1, generator=m.generator), "'method.generator'"),
        (lambda m, o: m.linear.eval(), "'method.linear.training'"),
        (lambda m, o: o.param_groups[0].update(lr=0.2), "'optimizer.param_groups.0.lr'"),
        (
            lambda m, o: o.state[m.linear.bias].update(momentum_buffer=torch.ones(2)),
            "'optimizer.state.1.momentum_buffer'",
        ),
    ],
)
def test_what_is_done_on_the_host_is_seen(work: Callable[[Any, Any], object], what: str) -> None:
    assert what in said(work)


@pytest.mark.parametrize(
    "work",
    [
        lambda m, o: None,
        lambda m, o: m.mean.add_(1),
        lambda m, o: m.held.mul_(2),
        lambda m, o: o.step(),
        lambda m, o: o.zero_grad(),
        lambda m, o: m.linear(torch.ones(2)).sum().backward(),
    ],
)
def test_what_is_done_on_the_device_is_not(work: Callable[[Any, Any], object]) -> None:
    assert said(work) == ""


def test_a_tensor_of_the_host_beside_a_gpu_is_the_hosts() -> None:
    assert "'method.held'" in said(lambda m, o: m.held.add_(1), device="cuda")

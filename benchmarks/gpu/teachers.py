"""A teacher as it is called under bf16: how many BatchNorms were folded, and how far its logits are from fp32's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from benchmarks.gpu.sheet import Part, Row, Sheet
from kdbench.testing.trial import RandomTask
from kdbench.training.folding import light


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield from ((name, partial(folded, sheet, name)) for name in sheet.scale.teachers)


PART = Part("teachers", "teachers under bf16", steps)


@torch.no_grad()
def folded(sheet: Sheet, name: str) -> list[Row]:
    """Random weights, with the running statistics of noise."""
    numerics = dataclasses.replace(sheet.numerics, precision="bf16")
    numerics.apply()
    torch.manual_seed(0)
    task = RandomTask(numerics, num_classes=100, image_size=32, samples=2, batch_size=2)
    network = task.network(name).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            module.momentum = 0.5
    draws = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(3):
        network(numerics.place_inputs(torch.randn(8, 3, 32, 32, generator=draws)))
    network.eval()
    found = light(network, task.example(), numerics)
    inputs = numerics.place_inputs(torch.randn(8, 3, 32, 32, generator=draws))
    with numerics.autocast():
        ours = found.network(inputs).logits
    exact = network(inputs).logits
    return [{"network": name, **found.about, "logits": float((ours - exact).norm() / exact.norm())}]

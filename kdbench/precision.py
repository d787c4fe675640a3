"""In which precision a cell is computed when its recipe leaves that to kdbench."""

from __future__ import annotations

import dataclasses
from functools import cache

import timm
import torch
from torch import nn

from kdbench import networks  # noqa: F401  (registers the CIFAR networks with timm)
from kdbench.device import Numerics, resolve
from kdbench.suite import Cell


def numerics_of(cell: Cell, device: str | None = None, compile: str = "auto") -> Numerics:
    """The device rules for one cell; all cells of a cohort share its student and so have the same.

    On a CPU a student with grouped convolutions trains in fp32: their backward pass in bf16 takes there three times as
    long (docs/performance.md).

    Raises:
        KDBenchError: as `kdbench.device.resolve`.
    """
    precision = cell.recipe.precision
    numerics = resolve(device, precision, compile)
    slow = precision == "auto" and numerics.precision == "bf16" and numerics.device.type == "cpu"
    if slow and has_grouped_convolutions(cell.pair.student):
        rule = "grouped convolutions train slower in bf16 on a CPU"
        return dataclasses.replace(numerics, precision="fp32", precision_rule=rule)
    return numerics


@cache
def has_grouped_convolutions(network: str) -> bool:
    """Whether a network has any, depthwise ones among them; False for a name that is not timm's."""
    if not timm.is_model(network):
        return False
    with torch.device("meta"):
        model = timm.create_model(network)
    return any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules())

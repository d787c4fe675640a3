"""The numerics of a cell: in which precision, and compiled or not, where recipe and user leave that to kdbench."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import timm
import torch
from torch import nn

from kdbench import networks, verdicts  # noqa: F401  (networks: registers the CIFAR networks with timm)
from kdbench.device import Numerics, resolve
from kdbench.suite import Cell


def numerics_of(cell: Cell, device: str | None = None, compile: str = "auto", runs: Path | None = None) -> Numerics:
    """The device rules for one cell; all cells of a cohort share its student and so have the same.

    On a CPU a student with grouped convolutions trains in fp32: strided depthwise ones have no fast backward pass in
    bf16 there, and a MobileNetV2's step takes twice as long (docs/performance.md).

    Args:
        runs: the results folder, where verdicts of `kdbench tune` may lie.

    Raises:
        KDBenchError: as `kdbench.device.resolve`, and for a damaged file of verdicts.
    """
    precision = cell.recipe.precision
    numerics = resolve(device, precision, compile)
    slow = precision == "auto" and numerics.precision == "bf16" and numerics.device.type == "cpu"
    if slow and has_grouped_convolutions(cell.pair.student):
        rule = "grouped convolutions train slower in bf16 on a CPU"
        numerics = dataclasses.replace(numerics, precision="fp32", precision_rule=rule)
    return verdicts.applied(numerics, cell, runs) if compile == "auto" and runs is not None else numerics


@cache
def has_grouped_convolutions(network: str) -> bool:
    """Whether a network has any, depthwise ones among them; False for a name that is not timm's."""
    if not timm.is_model(network):
        return False
    with torch.device("meta"):
        model = timm.create_model(network)
    return any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules())

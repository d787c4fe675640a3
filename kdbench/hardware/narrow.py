"""Strided convolutions over maps narrower than their stride, whose maps are made as wide as it on CPUs in bf16.

oneDNN's kernel for the gradient of such a layer's weights leaves out what only the padding meets: there the gradient is
what lay in that memory, often NaN (docs/onednn-bf16-narrow.md). Columns of zeros to the right of the map are the same
sum. The rule is that of every CPU, so that results do not depend on which instructions the processor has.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional as F


def widen_narrow_maps(module: nn.Module) -> None:
    """Make the layers of `module` that may meet such a map widen it beforehand.

    Copies of a layer do the same, its state dict stays as it is, and a second call changes nothing.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and may_be_wrong(layer) and not getattr(layer, "widens", False):
            layer.widens = True  # type: ignore[assignment]
            layer.register_forward_pre_hook(_widen)


def may_be_wrong(layer: nn.Conv1d | nn.Conv2d) -> bool:
    """Whether the gradient of its weights is wrong for some map, and zeros to the right would be the same sum.

    A layer padded by half its kernel or more on either side, which no common network has, would put out more columns.
    """
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return False
    return layer.stride[-1] > 1 and 0 < 2 * layer.padding[-1] < _extent(layer)


def _extent(layer: Any) -> int:
    """How many columns the kernel spans."""
    return int(layer.dilation[-1] * (layer.kernel_size[-1] - 1) + 1)


def _widen(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    width = args[0].shape[-1]
    fits = width + 2 * layer.padding[-1] >= _extent(layer)  # if not, torch says so
    if width >= layer.stride[-1] or not fits:
        return args
    return F.pad(args[0], (0, layer.stride[-1] - width)), *args[1:]

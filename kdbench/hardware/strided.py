"""Strided 1x1 convolutions of few channels, computed without the stride on CPUs.

oneDNN's kernel for the gradient of such a layer, channels-last, writes past the end of its buffers on processors
without AVX-512: the process aborts, hangs or computes nonsense (docs/onednn-1x1-stride2.md). The pixels that the stride
skips are left out beforehand, which is the same sum, and the layer goes over the rest with stride 1. Channels-first has
a sound kernel too, but a compiled graph is laid out channels-last whatever its tensors were. The rule is the same on
every CPU, so that results do not depend on the processor's age.
"""

from __future__ import annotations

from typing import Any

from torch import nn

FEWEST = 8  # input channels, a group, from which on the kernel is right


def leave_strides_out(module: nn.Module) -> None:
    """Make these layers of `module` skip pixels beforehand.

    Copies of a layer do the same, its state dict stays as it is, and a second call changes nothing.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and is_unsafe(layer):
            layer.skips, layer.stride = layer.stride, (1, 1)  # type: ignore[assignment]
            layer.register_forward_pre_hook(_skip)


def is_unsafe(layer: nn.Conv2d) -> bool:
    padded = layer.padding not in ((0, 0), "valid")  # another kernel, which is right
    few = layer.in_channels // layer.groups < FEWEST
    return max(layer.kernel_size) == 1 and max(layer.stride) > 1 and few and not padded


def _skip(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    down, right = layer.skips
    return args[0][..., ::down, ::right], *args[1:]

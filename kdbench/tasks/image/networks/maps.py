"""What a network's maps are: which map the head pools, and which maps come out of a linear layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from timm.layers import BatchNormAct2d, GroupNormAct, LayerNormAct, LayerNormAct2d
from timm.models import EfficientNet, MobileNetV3
from timm.models import _efficientnet_blocks as blocks
from torch import Tensor, nn

LINEAR = tuple(
    getattr(blocks, name)
    for name in ("InvertedResidual", "EdgeResidual", "DepthwiseSeparableConv", "UniversalInvertedResidual")
    if hasattr(blocks, name)  # older versions of timm lack the last
)
NORMS = (BatchNormAct2d, GroupNormAct, LayerNormAct, LayerNormAct2d)


class Pooled(NamedTuple):
    """From what the head takes to the map that it pools, `[B, C, *space]`.

    Attributes:
        layout: of what the head takes: `"NCHW"`, `"NHWC"`, or `"NLC"`, tokens.
        prefix: how many tokens before the map's are no part of it, such as the class token.
        space: (H, W) of the map, for tokens.
    """

    layout: str
    prefix: int = 0
    space: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        if self.layout == "NHWC":
            return x.movedim(3, 1)
        if self.layout == "NLC":
            return x[:, self.prefix :].transpose(1, 2).unflatten(2, self.space)
        return x


def pooled(model: Any, features: Sequence[Tensor], final: Tensor) -> Pooled | None:
    """How the map that the head pools is read off `final`, which the head takes.

    None where that is the last of the features itself, or where the head takes no map of the features' size (PiT's
    class token).
    """
    if not features or final is features[-1]:
        return None
    if final.dim() == 4:
        return Pooled("NHWC" if getattr(model, "output_fmt", None) == "NHWC" else "NCHW")
    prefix, space = int(getattr(model, "num_prefix_tokens", 0)), tuple(features[-1].shape[2:])
    if final.dim() != 3 or final.shape[1] - prefix != math.prod(space):
        return None
    return Pooled("NLC", prefix, space)


def end_linearly(model: Any, indices: Sequence[int]) -> bool:
    """Whether each stage that is read ends in a linear bottleneck: in a norm without an activation.

    Args:
        indices: of the stages, as `forward_intermediates` counts them.
    """
    if not isinstance(model, EfficientNet | MobileNetV3) or not indices:
        return False
    numbers = [model.stage_ends[index] for index in indices]  # 0 is the stem, k the k-th group of blocks
    return all(number and _is_linear(model.blocks[number - 1][-1]) for number in numbers)


def _is_linear(block: nn.Module) -> bool:
    norms = [module for module in block.modules() if isinstance(module, NORMS)]
    return isinstance(block, LINEAR) and bool(norms) and isinstance(norms[-1].act, nn.Identity)

"""A feature pyramid (Lin et al., CVPR 2017) over any timm network that gives maps of several sizes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kdbench.errors import KDBenchError, unknown

STRIDES = (8, 16, 32)  # of the backbone's maps that the pyramid reads
COARSER = {3: (), 5: (64, 128)}  # levels of the pyramid -> the strides that it adds itself


class Pyramid(nn.Module):
    """Pictures `[B, C, H, W]` to maps `[B, width, h, w]` at strides 8, 16, 32 and, of five levels, 64 and 128.

    Args:
        name: the timm network, for `timm.create_model(..., features_only=True)`.
        levels: 3, or 5 as in the literature.
        options: passed to timm.

    Raises:
        KDBenchError: if there is no such network, it has no such maps, or its weights cannot be had.
    """

    def __init__(
        self, name: str, in_chans: int, width: int, levels: int, pretrained: bool = False, **options: Any
    ) -> None:
        super().__init__()
        if levels not in COARSER:
            raise KDBenchError(f"a pyramid of {levels} levels is asked for: give 3 (strides 8, 16, 32) or 5")
        self.backbone, channels = _backbone(name, in_chans, pretrained, options)
        self.strides = (*STRIDES, *COARSER[levels])
        more = LastLevelP6P7(width, width) if COARSER[levels] else None
        self.neck = FeaturePyramidNetwork(channels, width, more)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        maps = self.backbone(pictures)
        return list(self.neck(OrderedDict((str(place), level) for place, level in enumerate(maps))).values())


def _backbone(name: str, in_chans: int, pretrained: bool, options: dict[str, Any]) -> tuple[nn.Module, list[int]]:
    """The network, and the channels of its maps at `STRIDES`."""
    if not timm.is_model(name.partition(".")[0]):
        raise unknown("backbone", name, timm.list_models(), "`kdbench list networks` shows all")
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(name, features_only=True, in_chans=in_chans, **options).feature_info
    except Exception as error:  # timm raises whatever it likes
        raise KDBenchError(
            f"network {name!r} gives no maps for a detector ({_first(error)}): take a CNN or a hierarchical transformer"
        ) from error
    reductions = info.reduction()
    if missing := [stride for stride in STRIDES if stride not in reductions]:
        raise KDBenchError(
            f"network {name!r} has no map at stride {missing[0]} (it has {', '.join(map(str, reductions))}), which a "
            "detector reads: take a network that halves its input five times"
        )
    at = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
    chosen: dict[str, Any] = {"features_only": True, "out_indices": tuple(at), "in_chans": in_chans, **options}
    try:
        backbone = timm.create_model(name, pretrained=pretrained, **chosen)
    except Exception as error:
        raise KDBenchError(f"timm's network {name!r} cannot be made a backbone: {_first(error)}") from error
    return backbone, [info.channels()[place] for place in at]


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

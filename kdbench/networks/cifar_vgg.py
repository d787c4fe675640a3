"""CIFAR VGGs with batch norm (Simonyan & Zisserman 2015): five blocks of convolutions and one linear classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from kdbench.networks.cifar_base import CifarNet, options

DEPTHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class CifarVGG(CifarNet):
    """The first block is the stem, the other four are the stages; maps are taken before each pooling.

    As in the literature's code, the map is pooled between the last two blocks only for inputs of 64 pixels or more.
    """

    def __init__(self, depth: int, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__(num_classes, WIDTHS[1:], WIDTHS[-1])
        self.blocks = nn.ModuleList()
        c_in = in_chans
        for convolutions, width in zip(DEPTHS[depth], WIDTHS, strict=True):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                layers += [nn.Conv2d(c_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                c_in = width
            self.blocks.append(nn.Sequential(*layers[:-1]))  # the block's last ReLU is applied outside
        self.finish()

    def finish(self) -> None:
        super().finish()
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0, 0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def run_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        large = x.shape[2] >= 64
        maps, before = [], []
        for index, block in enumerate(self.blocks):
            if 1 <= index <= 3 or (index == 4 and large):
                x = F.max_pool2d(x, 2)
            before.append(block(x))
            x = torch.relu(before[-1])
            maps.append(x)
        return maps[0], maps[1:], before[1:], x


def _vgg(depth: int, kwargs: dict[str, Any]) -> CifarVGG:
    return CifarVGG(depth, **options(kwargs))


@register_model
def cifar_vgg8(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-8: one convolution a block."""
    return _vgg(8, kwargs)


@register_model
def cifar_vgg11(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-11."""
    return _vgg(11, kwargs)


@register_model
def cifar_vgg13(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-13."""
    return _vgg(13, kwargs)


@register_model
def cifar_vgg16(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-16."""
    return _vgg(16, kwargs)


@register_model
def cifar_vgg19(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-19."""
    return _vgg(19, kwargs)

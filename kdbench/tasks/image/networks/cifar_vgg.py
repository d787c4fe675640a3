"""CIFAR VGGs with batch norm (Simonyan & Zisserman 2015): five blocks of convolutions and one linear classifier."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from kdbench.tasks.image.networks.cifar_base import CifarNet, Taps, build, cifar_cfgs, init_small, norm_relu, scaled

# convolutions of each block, by the network's depth
DEPTHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)

default_cfgs = cifar_cfgs(*(f"cifar_vgg{depth}" for depth in DEPTHS))


class CifarVGG(CifarNet):
    """The first block is the stem, the other four are the stages; maps are taken before each pooling.

    As in the literature's code, the map is pooled between the last two blocks only for inputs of 64 pixels or more.

    Attributes:
        first, big: set for a tail of the network: the number of its first block, and whether images are that large.
    """

    first = 0
    big = False

    def __init__(self, depth: int, num_classes: int = 100, in_chans: int = 3, width_factor: float = 1.0) -> None:
        widths = scaled(WIDTHS, width_factor)
        super().__init__(num_classes, widths[1:], (2, 4, 8, 8))
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.ModuleList()
        c_in = in_chans
        for convolutions, width in zip(DEPTHS[depth], widths, strict=True):
            layers: list[nn.Module] = []
            for _ in range(convolutions):
                layers += [nn.Conv2d(c_in, width, 3, padding=1), *norm_relu(width)]
                c_in = width
            self.blocks.append(nn.Sequential(*layers[:-1]))  # the block's last ReLU is applied outside
        for index, info in enumerate(self.feature_info, start=1):
            info["module"] = f"blocks.{index}"
        self.finish()

    def init_classifier(self, linear: nn.Linear) -> None:
        init_small(linear)

    def run_taps(self, x: Tensor) -> Taps:
        big = x.shape[2] >= 64 if not self.first else self.big
        pooled = {1, 2, 3, 4} if big else {1, 2, 3}  # the blocks that start with a pooling
        features, before = [], []
        for index, block in enumerate(self.blocks, self.first):
            before.append(block(self.pool(x) if index in pooled else x))
            x = torch.relu(before[-1])
            features.append(x)
        later = 0 if self.first else 1  # the first block is the stem
        return Taps(features[0], features[later:], before[later:], x)


def _vgg(name: str, depth: int, pretrained: bool, options: dict[str, Any]) -> CifarVGG:
    return build(CifarVGG, name, pretrained, depth=depth, **options)


@register_model
def cifar_vgg8(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-8 with batch norm."""
    return _vgg("cifar_vgg8", 8, pretrained, kwargs)


@register_model
def cifar_vgg11(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-11 with batch norm."""
    return _vgg("cifar_vgg11", 11, pretrained, kwargs)


@register_model
def cifar_vgg13(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-13 with batch norm."""
    return _vgg("cifar_vgg13", 13, pretrained, kwargs)


@register_model
def cifar_vgg16(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-16 with batch norm."""
    return _vgg("cifar_vgg16", 16, pretrained, kwargs)


@register_model
def cifar_vgg19(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """VGG-19 with batch norm."""
    return _vgg("cifar_vgg19", 19, pretrained, kwargs)

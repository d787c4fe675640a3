"""CIFAR Wide ResNets (Zagoruyko & Komodakis 2016): three stages of pre-activation blocks."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from kdbench.tasks.image.networks.cifar_base import (
    CifarNet,
    Taps,
    build,
    cifar_cfgs,
    conv1x1,
    conv3x3,
    norm_relu,
    scaled,
)

default_cfgs = cifar_cfgs("cifar_wrn_16_1", "cifar_wrn_16_2", "cifar_wrn_40_1", "cifar_wrn_40_2")


class WideBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice; where the shape changes, the shortcut starts from the activated input."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(c_in)
        self.residual = nn.Sequential(conv3x3(c_in, c_out, stride), *norm_relu(c_out), conv3x3(c_out, c_out))
        self.shortcut = None if c_in == c_out else conv1x1(c_in, c_out, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the raw sum and the normed input, which is the pre-activation of the map that came in."""
        normed = self.norm(x)
        active = torch.relu(normed)
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active)), normed


class CifarWideResNet(CifarNet):
    """All stages' maps are raw sums, as in the literature's code; the head pools the last one normed and activated.

    The pre-activation maps are the norms that follow each stage, before their ReLU; the first two belong to the next
    stage's first block, the last to the head.
    """

    def __init__(
        self, depth: int, width: int, num_classes: int = 100, in_chans: int = 3, width_factor: float = 1.0
    ) -> None:
        channels = scaled((16 * width, 32 * width, 64 * width), width_factor)
        super().__init__(num_classes, channels, (1, 2, 4))
        (c_in,) = scaled((16,), width_factor)
        self.stem = conv3x3(in_chans, c_in)
        self.stages = nn.ModuleList()
        for index, c_out in enumerate(channels):
            blocks = nn.ModuleList()
            for position in range((depth - 4) // 6):
                blocks.append(WideBlock(c_in, c_out, 2 if index and not position else 1))
                c_in = c_out
            self.stages.append(blocks)
        self.norm = nn.BatchNorm2d(c_in)
        self.finish()

    def init_classifier(self, linear: nn.Linear) -> None:
        nn.init.zeros_(linear.bias)

    def run_taps(self, x: Tensor) -> Taps:
        stem = x = self.stem(x)
        sums, entering = [], []
        for blocks in self.stages:
            for position, block in enumerate(blocks.children()):
                x, normed = block(x)
                if not position:
                    entering.append(normed)
            sums.append(x)
        last = self.norm(x)
        return Taps(stem, sums, [*entering, last][1:], torch.relu(last))


def _wide(name: str, depth: int, width: int, pretrained: bool, options: dict[str, Any]) -> CifarWideResNet:
    return build(CifarWideResNet, name, pretrained, depth=depth, width=width, **options)


@register_model
def cifar_wrn_16_1(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-16-1."""
    return _wide("cifar_wrn_16_1", 16, 1, pretrained, kwargs)


@register_model
def cifar_wrn_16_2(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-16-2."""
    return _wide("cifar_wrn_16_2", 16, 2, pretrained, kwargs)


@register_model
def cifar_wrn_40_1(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-40-1."""
    return _wide("cifar_wrn_40_1", 40, 1, pretrained, kwargs)


@register_model
def cifar_wrn_40_2(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-40-2."""
    return _wide("cifar_wrn_40_2", 40, 2, pretrained, kwargs)

"""ShuffleNet V1 (Zhang et al. 2018, 3 groups) and V2 (Ma et al. 2018, width 1) of the CIFAR-100 tables."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from kdbench.tasks.image.networks.cifar_base import (
    CifarNet,
    Taps,
    build,
    cifar_cfgs,
    conv1x1,
    depthwise,
    norm_relu,
    run_stages,
)

STEM = 24  # channels of the stem in both versions

default_cfgs = cifar_cfgs("cifar_shufflenetv1", "cifar_shufflenetv2")


class _ShuffleNet(CifarNet):
    """Both versions: a 1x1 stem without stride, three stages that halve the map, torch's own initialisation."""

    def __init__(self, num_classes: int, in_chans: int, channels: tuple[int, ...], num_features: int) -> None:
        super().__init__(num_classes, channels, (2, 4, 8), num_features)
        self.stem = nn.Sequential(conv1x1(in_chans, STEM), *norm_relu(STEM))
        self.stages = nn.ModuleList()

    def init_conv(self, conv: nn.Conv2d) -> None:
        """The literature's code leaves torch's default here."""


class ShuffleUnit(nn.Module):
    """V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; returns the sum (or concatenation) before its ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int) -> None:
        super().__init__()
        own = c_out - c_in if stride == 2 else c_out  # at stride 2 the pooled input supplies the other channels
        middle = own // 4
        first_groups = 1 if c_in == STEM else groups  # the stem's few channels are not grouped
        self.expand = nn.Sequential(conv1x1(c_in, middle, groups=first_groups), *norm_relu(middle))
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.filter = nn.Sequential(depthwise(middle, stride), *norm_relu(middle))
        self.project = nn.Sequential(conv1x1(middle, own, groups=groups), nn.BatchNorm2d(own))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.filter(self.shuffle(self.expand(x))))
        if self.stride == 1:
            return out + x
        return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)


class CifarShuffleNetV1(_ShuffleNet):
    """The map of the last stage is pooled as it is."""

    def __init__(self, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__(num_classes, in_chans, (240, 480, 960), 960)
        c_in = STEM
        for width, depth in zip(self.channels, (4, 8, 4), strict=True):
            first = ShuffleUnit(c_in, width, 2, groups=3)
            self.stages.append(nn.ModuleList([first, *(ShuffleUnit(width, width, 1, 3) for _ in range(depth - 1))]))
            c_in = width
        self.finish()

    def run_taps(self, x: Tensor) -> Taps:
        return run_stages(self.stages, self.stem(x))


class SplitUnit(nn.Module):
    """V2: half of the channels pass, the other half goes through 1x1, depthwise 3x3, 1x1; then the halves are shuffled.

    Returns the output before the ReLU of its second half. The half that passes comes out of a ReLU, so that one more
    over both changes nothing. The literature's code shows the same maps before the shuffle; the channels' order is all
    that differs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv1x1(half, half), *norm_relu(half),
            depthwise(half, 1), nn.BatchNorm2d(half),
            conv1x1(half, half), nn.BatchNorm2d(half),
        )  # fmt: skip
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        passed, worked = x.chunk(2, 1)
        return self.shuffle(torch.cat([passed, self.branch(worked)], 1))


class DownUnit(nn.Module):
    """V2: both halves are made from the whole input at stride 2; returns the output before its ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half = c_out // 2
        self.left = nn.Sequential(depthwise(c_in, 2), nn.BatchNorm2d(c_in), conv1x1(c_in, half), nn.BatchNorm2d(half))
        self.right = nn.Sequential(
            conv1x1(c_in, half), *norm_relu(half),
            depthwise(half, 2), nn.BatchNorm2d(half),
            conv1x1(half, half), nn.BatchNorm2d(half),
        )  # fmt: skip
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(torch.cat([self.left(x), self.right(x)], 1))


class CifarShuffleNetV2(_ShuffleNet):
    """A last 1x1 convolution to 1024 channels follows the stages."""

    def __init__(self, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__(num_classes, in_chans, (116, 232, 464), 1024)
        c_in = STEM
        for width, depth in zip(self.channels, (4, 8, 4), strict=True):
            self.stages.append(nn.ModuleList([DownUnit(c_in, width), *(SplitUnit(width) for _ in range(depth - 1))]))
            c_in = width
        self.last = nn.Sequential(conv1x1(c_in, self.num_features), *norm_relu(self.num_features))
        self.finish()

    def run_taps(self, x: Tensor) -> Taps:
        taps = run_stages(self.stages, self.stem(x))
        return taps._replace(final=self.last(taps.final))


@register_model
def cifar_shufflenetv1(pretrained: bool = False, **kwargs: Any) -> CifarShuffleNetV1:
    """ShuffleNet V1, 3 groups."""
    return build(CifarShuffleNetV1, "cifar_shufflenetv1", pretrained, **kwargs)


@register_model
def cifar_shufflenetv2(pretrained: bool = False, **kwargs: Any) -> CifarShuffleNetV2:
    """ShuffleNet V2, width 1."""
    return build(CifarShuffleNetV2, "cifar_shufflenetv2", pretrained, **kwargs)

"""ShuffleNet V1 (Zhang et al. 2018, 3 groups) and V2 (Ma et al. 2018, width 1) of the CIFAR-100 tables."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from kdbench.networks.cifar_base import CifarNet, conv1x1, norm_relu, options, run_chain


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


class ShuffleUnit(nn.Module):
    """V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; returns the sum (or concatenation) before its ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int, groups: int) -> None:
        super().__init__()
        own = c_out - c_in if stride == 2 else c_out  # at stride 2 the pooled input supplies the other channels
        middle = own // 4
        first_groups = 1 if c_in == 24 else groups  # the stem's 24 channels are not grouped
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


class CifarShuffleNetV1(CifarNet):
    """A 1x1 stem without stride and three stages."""

    def __init__(self, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__(num_classes, (240, 480, 960), 960)
        self.stem = nn.Sequential(conv1x1(in_chans, 24), *norm_relu(24))
        self.stages = nn.ModuleList()
        c_in = 24
        for width, depth in zip(self.channels, (4, 8, 4), strict=True):
            rest = [ShuffleUnit(width, width, 1, 3) for _ in range(depth - 1)]
            self.stages.append(nn.ModuleList([ShuffleUnit(c_in, width, 2, 3), *rest]))
            c_in = width
        self.finish()

    def init_conv(self, conv: nn.Conv2d) -> None:
        """The literature's code leaves torch's default here."""

    def run_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        stem = x = self.stem(x)
        maps, before = [], []
        for units in self.stages:
            x, pre = run_chain(units, x)  # type: ignore[arg-type]
            maps.append(x)
            before.append(pre)
        return stem, maps, before, x


class SplitUnit(nn.Module):
    """V2: half of the channels pass, the other half goes through 1x1, depthwise 3x3, 1x1; then the halves are shuffled.

    Returns the output and the same with the last ReLU left out, which the literature takes as pre-activation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv1x1(half, half), *norm_relu(half), depthwise(half, 1), nn.BatchNorm2d(half),
            conv1x1(half, half), nn.BatchNorm2d(half),
        )  # fmt: skip
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        passed, worked = x.chunk(2, 1)
        before = self.branch(worked)
        return self.shuffle(torch.cat([passed, torch.relu(before)], 1)), self.shuffle(torch.cat([passed, before], 1))


class DownUnit(nn.Module):
    """V2: both halves are made from the whole input at stride 2; returns as `SplitUnit`."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        half = c_out // 2
        self.left = nn.Sequential(depthwise(c_in, 2), nn.BatchNorm2d(c_in), conv1x1(c_in, half), nn.BatchNorm2d(half))
        self.right = nn.Sequential(
            conv1x1(c_in, half), *norm_relu(half), depthwise(half, 2), nn.BatchNorm2d(half),
            conv1x1(half, half), nn.BatchNorm2d(half),
        )  # fmt: skip
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = torch.cat([self.left(x), self.right(x)], 1)
        return self.shuffle(torch.relu(before)), self.shuffle(before)


class CifarShuffleNetV2(CifarNet):
    """A 1x1 stem without stride, three stages, and a last 1x1 convolution to 1024 channels."""

    def __init__(self, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__(num_classes, (116, 232, 464), 1024)
        self.stem = nn.Sequential(conv1x1(in_chans, 24), *norm_relu(24))
        self.stages = nn.ModuleList()
        c_in = 24
        for width, depth in zip(self.channels, (3, 7, 3), strict=True):
            self.stages.append(nn.ModuleList([DownUnit(c_in, width), *(SplitUnit(width) for _ in range(depth))]))
            c_in = width
        self.last = nn.Sequential(conv1x1(c_in, 1024), *norm_relu(1024))
        self.finish()

    def init_conv(self, conv: nn.Conv2d) -> None:
        """The literature's code leaves torch's default here."""

    def run_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        stem = x = self.stem(x)
        maps, before = [], []
        for units in self.stages:
            for unit in units:  # type: ignore[union-attr]
                x, pre = unit(x)
            maps.append(x)
            before.append(pre)
        return stem, maps, before, self.last(x)


@register_model
def cifar_shufflenetv1(pretrained: bool = False, **kwargs: Any) -> CifarShuffleNetV1:
    """ShuffleNet V1, 3 groups."""
    return CifarShuffleNetV1(**options(kwargs))


@register_model
def cifar_shufflenetv2(pretrained: bool = False, **kwargs: Any) -> CifarShuffleNetV2:
    """ShuffleNet V2, width 1."""
    return CifarShuffleNetV2(**options(kwargs))

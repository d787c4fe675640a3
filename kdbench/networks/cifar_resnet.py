"""CIFAR ResNets: three stages of basic blocks (He et al. 2016), 1x1-convolution shortcuts, and their x4 variants."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from kdbench.networks.cifar_base import CifarNet, conv1x1, conv3x3, norm_relu, options, run_chain


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum before its ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv3x3(c_in, c_out, stride), *norm_relu(c_out), conv3x3(c_out, c_out), nn.BatchNorm2d(c_out)
        )
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; returns the sum before its ReLU."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = self.expansion * width
        self.residual = nn.Sequential(
            conv1x1(c_in, width), *norm_relu(width),
            conv3x3(width, width, stride), *norm_relu(width),
            conv1x1(width, c_out), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class CifarResNet(CifarNet):
    """A 3x3 stem without pooling, then stages; every stage but the first halves the map."""

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        num_classes: int = 100,
        in_chans: int = 3,
    ) -> None:
        expansion = getattr(block, "expansion", 1)
        channels = tuple(expansion * width for width in widths[1:])
        super().__init__(num_classes, channels, channels[-1])
        self.stem = nn.Sequential(conv3x3(in_chans, widths[0]), *norm_relu(widths[0]))
        self.stages = nn.ModuleList()
        c_in = widths[0]
        for index, (depth, width) in enumerate(zip(depths, widths[1:], strict=True)):
            blocks = nn.ModuleList()
            for position in range(depth):
                blocks.append(block(c_in, width, 2 if index and not position else 1))
                c_in = expansion * width
            self.stages.append(blocks)
        self.finish()

    def run_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        stem = x = self.stem(x)
        maps, before = [], []
        for blocks in self.stages:
            x, pre = run_chain(blocks, x)  # type: ignore[arg-type]
            maps.append(x)
            before.append(pre)
        return stem, maps, before, x


def _basic(depth: int, widths: tuple[int, ...] = (16, 16, 32, 64), **chosen: Any) -> CifarResNet:
    return CifarResNet(((depth - 2) // 6,) * 3, widths, **chosen)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8, widths 16-32-64."""
    return _basic(8, **options(kwargs))


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-14, widths 16-32-64."""
    return _basic(14, **options(kwargs))


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20, widths 16-32-64."""
    return _basic(20, **options(kwargs))


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32, widths 16-32-64."""
    return _basic(32, **options(kwargs))


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44, widths 16-32-64."""
    return _basic(44, **options(kwargs))


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56, widths 16-32-64."""
    return _basic(56, **options(kwargs))


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110, widths 16-32-64."""
    return _basic(110, **options(kwargs))


@register_model
def cifar_resnet8x4(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8, four times as wide but for the stem (32)."""
    return _basic(8, (32, 64, 128, 256), **options(kwargs))


@register_model
def cifar_resnet32x4(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32, four times as wide but for the stem (32)."""
    return _basic(32, (32, 64, 128, 256), **options(kwargs))


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ImageNet's ResNet-50 with a 3x3 stem without pooling: four stages of bottlenecks."""
    return CifarResNet((3, 4, 6, 3), (64, 64, 128, 256, 512), Bottleneck, **options(kwargs))

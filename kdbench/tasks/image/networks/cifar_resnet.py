"""CIFAR ResNets (He et al. 2016): three stages of basic blocks with 1x1-convolution shortcuts, and x4-wide variants."""

from __future__ import annotations

from typing import Any

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
    run_stages,
    scaled,
)

NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)  # the stem's and each stage's width

default_cfgs = cifar_cfgs(
    *(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 50, 56, 110)), "cifar_resnet8x4", "cifar_resnet32x4"
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; returns the sum before its ReLU."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv3x3(c_in, width, stride), *norm_relu(width), conv3x3(width, width), nn.BatchNorm2d(width)
        )
        self.shortcut = _shortcut(c_in, width, stride)

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
        self.shortcut = _shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))


class CifarResNet(CifarNet):
    """A 3x3 stem without pooling, then stages; every stage but the first halves the map.

    Args:
        depths: blocks of each stage.
        widths: of the stem and of each stage, before the block's expansion.
        width_factor: multiplies all widths.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        num_classes: int = 100,
        in_chans: int = 3,
        width_factor: float = 1.0,
    ) -> None:
        widths = scaled(widths, width_factor)
        reductions = [2**index for index in range(len(depths))]
        super().__init__(num_classes, [block.expansion * width for width in widths[1:]], reductions)
        c_in = widths[0]
        self.stem = nn.Sequential(conv3x3(in_chans, c_in), *norm_relu(c_in))
        self.stages = nn.ModuleList()
        for index, (depth, width) in enumerate(zip(depths, widths[1:], strict=True)):
            blocks = nn.ModuleList()
            for position in range(depth):
                blocks.append(block(c_in, width, 2 if index and not position else 1))
                c_in = block.expansion * width
            self.stages.append(blocks)
        self.finish()

    def run_taps(self, x: Tensor) -> Taps:
        return run_stages(self.stages, self.stem(x))


def _basic(name: str, depth: int, widths: tuple[int, ...], pretrained: bool, options: dict[str, Any]) -> CifarResNet:
    return build(CifarResNet, name, pretrained, depths=((depth - 2) // 6,) * 3, widths=widths, **options)


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8, widths 16-32-64."""
    return _basic("cifar_resnet8", 8, NARROW, pretrained, kwargs)


@register_model
def cifar_resnet14(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-14, widths 16-32-64."""
    return _basic("cifar_resnet14", 14, NARROW, pretrained, kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20, widths 16-32-64."""
    return _basic("cifar_resnet20", 20, NARROW, pretrained, kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32, widths 16-32-64."""
    return _basic("cifar_resnet32", 32, NARROW, pretrained, kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44, widths 16-32-64."""
    return _basic("cifar_resnet44", 44, NARROW, pretrained, kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56, widths 16-32-64."""
    return _basic("cifar_resnet56", 56, NARROW, pretrained, kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110, widths 16-32-64."""
    return _basic("cifar_resnet110", 110, NARROW, pretrained, kwargs)


@register_model
def cifar_resnet8x4(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8, four times as wide but for the stem (32)."""
    return _basic("cifar_resnet8x4", 8, WIDE, pretrained, kwargs)


@register_model
def cifar_resnet32x4(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32, four times as wide but for the stem (32)."""
    return _basic("cifar_resnet32x4", 32, WIDE, pretrained, kwargs)


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ImageNet's ResNet-50 with a 3x3 stem without pooling: four stages of bottlenecks."""
    layout = {"depths": (3, 4, 6, 3), "widths": (64, 64, 128, 256, 512), "block": Bottleneck}
    return build(CifarResNet, "cifar_resnet50", pretrained, **layout, **kwargs)

"""MobileNetV2 of the CIFAR-100 tables (Sandler et al. 2018): expansion 6, width 0.5, stride 2 in the stem."""

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
    depthwise,
    init_small,
    norm_relu,
)

# expansion, channels at width 1, blocks, stride of the first block
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STAGES = ((0, 1), (2,), (3, 4), (5, 6))  # which groups of BLOCKS make a stage

default_cfgs = cifar_cfgs("cifar_mobilenetv2")


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project linearly; a shortcut where the shape stays."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.layers = nn.Sequential(
            conv1x1(c_in, wide), *norm_relu(wide),
            depthwise(wide, stride), *norm_relu(wide),
            conv1x1(wide, c_out), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.has_shortcut else self.layers(x)


class CifarMobileNetV2(CifarNet):
    """Stages end in linear bottlenecks, whose maps no ReLU has seen: they are the pre-activations too, as in the
    literature's code.
    """

    def __init__(self, width: float = 0.5, num_classes: int = 100, in_chans: int = 3) -> None:
        groups = [int(channels * width) for _, channels, _, _ in BLOCKS]
        super().__init__(num_classes, [groups[stage[-1]] for stage in STAGES], (2, 4, 8, 16), 1280)
        c_in = int(32 * width)
        self.stem = nn.Sequential(conv3x3(in_chans, c_in, stride=2), *norm_relu(c_in))
        self.stages = nn.ModuleList()
        for stage in STAGES:
            blocks = []
            for group in stage:
                expansion, _, count, stride = BLOCKS[group]
                for position in range(count):
                    blocks.append(InvertedResidual(c_in, groups[group], 1 if position else stride, expansion))
                    c_in = groups[group]
            self.stages.append(nn.Sequential(*blocks))
        self.last = nn.Sequential(conv1x1(c_in, self.num_features), *norm_relu(self.num_features))
        self.finish()

    def init_classifier(self, linear: nn.Linear) -> None:
        init_small(linear)

    def run_taps(self, x: Tensor) -> Taps:
        stem = x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return Taps(stem, features, features, self.last(x))


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **kwargs: Any) -> CifarMobileNetV2:
    """MobileNetV2, expansion 6, width 0.5."""
    return build(CifarMobileNetV2, "cifar_mobilenetv2", pretrained, **kwargs)

"""CIFAR Wide ResNets (Zagoruyko & Komodakis 2016): three stages of pre-activation blocks."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from kdbench.networks.cifar_base import CifarNet, conv1x1, conv3x3, norm_relu, options


class WideBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice; where the shape changes, the shortcut starts from the activated input."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(c_in)
        self.residual = nn.Sequential(conv3x3(c_in, c_out, stride), *norm_relu(c_out), conv3x3(c_out, c_out))
        self.shortcut = None if c_in == c_out else conv1x1(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = torch.relu(self.norm(x))
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active))


class CifarWideResNet(CifarNet):
    """As in the literature's code, the first two stages' maps are the raw sums, the last one's is normed and activated.

    The pre-activation maps are the norms that follow each stage, before their ReLU; the first two belong to the next
    stage's first block.
    """

    def __init__(self, depth: int, width: int, num_classes: int = 100, in_chans: int = 3) -> None:
        channels = (16 * width, 32 * width, 64 * width)
        super().__init__(num_classes, channels, channels[-1])
        self.stem = conv3x3(in_chans, 16)
        self.stages = nn.ModuleList()
        c_in = 16
        for index, c_out in enumerate(channels):
            blocks = []
            for position in range((depth - 4) // 6):
                blocks.append(WideBlock(c_in, c_out, 2 if index and not position else 1))
                c_in = c_out
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels[-1])
        self.finish()

    def finish(self) -> None:
        super().finish()
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def run_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        stem = self.stem(x)
        first = self.stages[0](stem)
        second = self.stages[1](first)
        last = self.norm(self.stages[2](second))
        final = torch.relu(last)
        # what the next block computes anyway; in train mode its running statistics must not move twice
        before = [_norm_only(stage[0].norm, x) for stage, x in ((self.stages[1], first), (self.stages[2], second))]  # type: ignore[index]
        return stem, [first, second, final], [*before, last], final


def _norm_only(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Apply a norm without moving its running statistics."""
    mean, var = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    return torch.nn.functional.batch_norm(x, mean, var, norm.weight, norm.bias, norm.training, 0.0, norm.eps)


def _wide(depth: int, width: int, kwargs: dict[str, Any]) -> CifarWideResNet:
    return CifarWideResNet(depth, width, **options(kwargs))


@register_model
def cifar_wrn_16_1(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-16-1."""
    return _wide(16, 1, kwargs)


@register_model
def cifar_wrn_16_2(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-16-2."""
    return _wide(16, 2, kwargs)


@register_model
def cifar_wrn_40_1(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-40-1."""
    return _wide(40, 1, kwargs)


@register_model
def cifar_wrn_40_2(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """WRN-40-2."""
    return _wide(40, 2, kwargs)

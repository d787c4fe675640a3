"""What the CIFAR networks of the literature share: the interface of a timm model over a stem and stages.

The definitions are those of the code of Tian et al. (CRD, ICLR 2020), which the field's CIFAR-100 tables rest on: same
layers, parameter counts, feature maps and initialisation. They are not timm's networks of similar names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

CIFAR_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR_STD = (0.2675, 0.2565, 0.2761)


class Taps(NamedTuple):
    """What one pass over images `[B, C, H, W]` shows; all maps are `[B, C', H', W']`.

    Attributes:
        stem: what enters the first stage.
        features: one map a stage, shallow to deep.
        preactivations: each stage's map before its last ReLU; the same maps where stages end in linear layers.
        final: the map that the head pools.
    """

    stem: Tensor
    features: list[Tensor]
    preactivations: list[Tensor]
    final: Tensor


class CifarNet(nn.Module):
    """Base class: a subclass builds its layers, calls `finish` last in its constructor, and gives `run_taps`.

    Any input size will do that survives the strides: the last map is averaged over whatever space is left.

    Args:
        num_classes: size of the logits; 0 for none.
        channels: of each stage's map.
        reductions: input size over map size, for each stage.
        num_features: size of the embedding.
    """

    classifier: nn.Module

    def __init__(
        self, num_classes: int, channels: Sequence[int], reductions: Sequence[int], num_features: int | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = num_features or channels[-1]
        self.channels = tuple(channels)
        # timm's tools read it; timm's builder adds default_cfg and pretrained_cfg
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"stages.{index}"}
            for index, (width, reduction) in enumerate(zip(channels, reductions, strict=True))
        ]

    def finish(self) -> None:
        """Initialise the convolutions and add the classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                self.init_conv(module)
        self.reset_classifier(self.num_classes)

    def init_conv(self, conv: nn.Conv2d) -> None:
        """Kaiming normal over the fan-out, zero bias; overridden where the literature's code keeps torch's default."""
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)

    def init_classifier(self, linear: nn.Linear) -> None:
        """Torch's default; overridden where the literature's code does otherwise."""

    def run_taps(self, x: Tensor) -> Taps:
        """Run the body on images `[B, C, H, W]`: stem, stage maps and pre-activations in one pass."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to the map that the head pools, `[B, C', H', W']`."""
        return self.run_taps(x).final

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """That map to logits `[B, K]`, or to the embedding `[B, D]` if `pre_logits`."""
        x = x.mean((2, 3))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's interface to the stage maps.

        Args:
            indices: which stages; an integer means the last so many, None all.
            norm, stop_early: without effect here, as in timm's own networks that have no final norm.
            output_fmt: only `"NCHW"`.
            intermediates_only: leave the final map out.

        Raises:
            ValueError: for another `output_fmt`.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}, but a CIFAR network gives maps as 'NCHW' only")
        taps = self.run_taps(x)
        stages = list(range(len(taps.features)))
        wanted = stages if indices is None else stages[-indices:] if isinstance(indices, int) else indices
        maps = [taps.features[index] for index in wanted]
        return maps if intermediates_only else (taps.final, maps)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for so many classes; 0 takes it away. Pooling is always the average.

        Raises:
            ValueError: for another `global_pool`.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is {global_pool!r}, but a CIFAR network pools by 'avg' only")
        self.num_classes = num_classes
        if not num_classes:
            self.classifier = nn.Identity()
            return
        self.classifier = linear = nn.Linear(self.num_features, num_classes)
        self.init_classifier(linear)


def init_small(linear: nn.Linear) -> None:
    """Normal weights of standard deviation 0.01 and zero bias."""
    nn.init.normal_(linear.weight, 0, 0.01)
    nn.init.zeros_(linear.bias)


def cifar_cfgs(*names: str) -> dict[str, Any]:
    """timm's `default_cfgs` for a module's networks: CIFAR-100's classes, size and statistics, and no weights."""
    config = {
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "mean": CIFAR_MEAN,
        "std": CIFAR_STD,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "classifier": "classifier",
    }
    return generate_default_cfgs(dict.fromkeys(names, config))


def build(network: type[CifarNet], name: str, pretrained: bool, /, **options: Any) -> Any:
    """What a registered entry point returns; timm's builder refuses `pretrained`, for which there are no weights."""
    return build_model_with_cfg(network, name, pretrained, **options)


def scaled(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    """Numbers of channels times a factor, at least one each."""
    return tuple(max(round(width * factor), 1) for width in widths)


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 1, stride, groups=groups, bias=False)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def run_stages(stages: nn.ModuleList, stem: Tensor) -> Taps:
    """Run stages whose blocks return their output before its last ReLU."""
    x, features, before = stem, [], []
    for blocks in stages:
        for block in blocks.children():
            preactivation = block(x)
            x = torch.relu(preactivation)
        features.append(x)
        before.append(preactivation)
    return Taps(stem, features, before, x)

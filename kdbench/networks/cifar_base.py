"""What the CIFAR networks of the literature share: the interface of a timm model over a stem and stages.

The definitions are those of the code of Tian et al. (CRD, ICLR 2020), which the field's CIFAR-100 tables rest on: same
layers, parameter counts and feature maps. They are not timm's networks of similar names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CIFAR_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR_STD = (0.2675, 0.2565, 0.2761)


class CifarNet(nn.Module):
    """Base class: subclasses give `run_taps` and set `num_features`, `channels` and the classifier.

    Attributes:
        num_classes, num_features: size of the logits and of the embedding.
        channels: of each stage's map.
        classifier: the last layer, linear.
    """

    classifier: nn.Module

    def __init__(self, num_classes: int, channels: tuple[int, ...], num_features: int) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, num_features, num_features
        self.channels = channels
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        # timm's own networks carry these two, and its tools read them
        self.feature_info = [{"num_chs": width, "module": f"stage{i + 1}"} for i, width in enumerate(channels)]
        self.default_cfg = self.pretrained_cfg = {"mean": CIFAR_MEAN, "std": CIFAR_STD, "input_size": (3, 32, 32)}

    def finish(self) -> None:
        """Add the classifier and initialise the weights; the last line of a subclass's constructor."""
        self.classifier = self._make_classifier(self.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                self.init_conv(module)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def init_conv(self, conv: nn.Conv2d) -> None:
        """Kaiming normal over the fan-out; networks whose code leaves torch's default override it."""
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def _make_classifier(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def run_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
        """Run the body on images `[B, C, H, W]`.

        Returns:
            The stem's map, each stage's map, each stage's map before its last ReLU (empty where a stage ends in a
            linear layer), and the map that the head pools, all `[B, C, H, W]`.
        """
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        return self.run_taps(x)[3]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.global_pool(x).flatten(1)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(self, x: Tensor, indices: Any = None, **_: Any) -> tuple[Tensor, list[Tensor]]:
        """timm's interface to the stage maps."""
        _, stages, _, final = self.run_taps(x)
        if isinstance(indices, int):  # the last so many, as timm has it
            indices = range(len(stages))[-indices:]
        return final, [stages[i] for i in (range(len(stages)) if indices is None else indices)]

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.classifier = self._make_classifier(num_classes)


def options(kwargs: dict[str, Any]) -> dict[str, int]:
    """What a CIFAR network takes of the arguments that timm passes on."""
    return {"num_classes": kwargs.get("num_classes", 100), "in_chans": kwargs.get("in_chans", 3)}


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 1, stride, groups=groups, bias=False)


def norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def run_chain(blocks: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run blocks that return their sum before its ReLU.

    Returns:
        The last block's output after and before its ReLU.
    """
    before = x
    for block in blocks:
        before = block(x)
        x = torch.relu(before)
    return x, before

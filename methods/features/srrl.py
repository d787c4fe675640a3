"""Knowledge Distillation via Softmax Regression Representation Learning (Yang et al., ICLR 2021).

The student's representation matches the teacher's, and the teacher's frozen classifier reads from it what it reads
from its own.

    g = ReLU(BN(conv1x1(F_s)))
    L = CE(z_s, y) + weight [mean (GAP g - GAP F_t)^2 + mean (W_t GAP g + b_t - z_t)^2]

CIFAR-100 and ImageNet: weight 1. `variant="vector"` is the SimKD toolbox's: the layer acts on the pooled embedding.

F_s and F_t are the maps that the heads pool.

Deviations: none. A map is pooled on its own side, so sizes need not agree.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, KDBenchError, Method, Network, Output, Paper, register
from kdbench.connectors import global_pool, norm, pointwise, require_pooled_embedding
from kdbench.losses import wide


@register(
    "srrl",
    family="features",
    paper=Paper(
        title="Knowledge Distillation via Softmax Regression Representation Learning",
        authors="Yang et al.",
        year=2021,
        venue="ICLR",
        arxiv="",
        code="jingyang2017/KD_SRRL",
    ),
    fidelity="official-code",
)
class SRRL(Method):
    needs = frozenset({"maps", "unpooled"})

    def __init__(self, weight: float = 1.0, variant: str = "map") -> None:
        super().__init__()
        if variant not in ("map", "vector"):
            raise KDBenchError(f"srrl's variant is {variant!r}: give 'map' or 'vector'")
        self.weight, self.variant = weight, variant
        if variant == "vector":
            self.needs = frozenset()

    def build(self, student: Network, teacher: Network) -> None:
        c_in = student.shapes.unpooled[0] if self.variant == "map" else student.shapes.embedding
        c_out = teacher.shapes.embedding
        self.transfer = nn.Sequential(pointwise(c_in, c_out, 2, bias=False), norm(c_out, 2), nn.ReLU())
        if self.variant == "map":
            nn.init.kaiming_normal_(self.transfer[0].weight, mode="fan_out")  # as the authors' code does
        self.classifier = copy.deepcopy(teacher.classifier).requires_grad_(False)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        if self.variant == "map":
            require_pooled_embedding("srrl", teachers[0], data)

    def reads(self, stages: int) -> tuple[int, ...]:
        return ()

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        feature = student.unpooled if self.variant == "map" else student.embedding[:, :, None, None]
        ours = wide(global_pool(self.transfer(feature)))
        with torch.autocast(ours.device.type, enabled=False):
            logits = self.classifier(ours)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "feature": self.weight * F.mse_loss(ours, teacher.embedding),
            "regression": self.weight * F.mse_loss(logits, teacher.logits),
        }

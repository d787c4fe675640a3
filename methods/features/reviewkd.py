"""Distilling Knowledge via Knowledge Review (Chen, Liu, Zhao, Jia, CVPR 2021).

The student's deeper maps are fused step by step with its shallower ones, and each fused map learns the teacher's map
at its stage at several scales.

    L = CE(z_s, y) + min(epoch / 20, 1) weight sum_k HCL(ABF_k(F_s^k, residual of k + 1), F_t^k)
    HCL = (sum_l 2^-l mean (pool_l a - pool_l b)^2) / (sum_l 2^-l), pool to full size, 4, 2, 1

CIFAR-100: weight 1 (resnet32x4 -> resnet8x4: 5; resnet50 -> mobilenetv2: 30 at rate 0.01). ImageNet: 1, mobilenetv1 8,
no warm-up (`warmup_share` 0).

Deviations:
- The code that was compared is mdistiller's, which is what tables compare with, not the authors' own.
- The warm-up of 20 of 240 epochs is kept as a share.
- The teacher's maps are taken before their ReLU where it has such; other teachers give their features.
- The student's maps are its features; mdistiller's ImageNet configurations take them before their ReLU too.
- Stages are matched from the deepest on where their numbers differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Network, Output, Paper, register
from kdbench.connectors import Fusion
from kdbench.losses import wide


def hierarchical_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of two maps `[B, C, H, W]` at full size and pooled to 4, 2 and 1 (where smaller)."""
    ours, theirs = wide(student), wide(teacher)
    loss, total, weight = F.mse_loss(ours, theirs), 1.0, 1.0
    for size in (4, 2, 1):
        if size < ours.shape[2]:
            weight /= 2
            pooled = (F.adaptive_avg_pool2d(x, size) for x in (ours, theirs))
            loss, total = loss + weight * F.mse_loss(*pooled), total + weight
    return loss / total


@register(
    "reviewkd",
    family="features",
    paper=Paper(
        title="Distilling Knowledge via Knowledge Review",
        authors="Chen et al.",
        year=2021,
        venue="CVPR",
        arxiv="2104.09044",
        code="megvii-research/mdistiller",
    ),
    fidelity="field-code",
)
class ReviewKD(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 1.0, warmup_share: float = 20 / 240) -> None:
        super().__init__()
        self.weight, self.warmup_share = weight, warmup_share

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.features, teacher.shapes.preactivations or teacher.shapes.features
        self.levels = min(len(ours), len(theirs))
        self.fusion = Fusion(
            [*ours[-self.levels :], (student.shapes.embedding,)], [*theirs[-self.levels :], (teacher.shapes.embedding,)]
        )

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        fused = self.fusion(student.features[-self.levels :], student.embedding)
        maps = (teacher.preactivations or teacher.features)[-self.levels :]
        theirs = [*maps, teacher.embedding[:, :, None, None]]
        costs = [hierarchical_distance(*pair) for pair in zip(fused, theirs, strict=True)]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "review": self.warmup(self.warmup_share) * self.weight * torch.stack(costs).sum(),
        }

"""Similarity-Preserving Knowledge Distillation (Tung, Mori, ICCV 2019).

Samples that look alike to the teacher look alike to the student: the batch's Gram matrices of the last map agree.

    L = CE(z_s, y) + weight B / 64 |G_s - G_t|^2 / B^2,  G = rows of F F^T normalised, F `[B, C H W]`

CIFAR-100: weight 3000 at batch 64. ImageNet: no value known.

Deviations: the rows have unit norm, so that the paper's loss falls as 1 / B; the factor B / 64 keeps the weight of
batch 64 at every batch size. `similarity_loss` is the loss of the field's code, without weight and factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register
from kdbench.losses import same_batch_scale, wide


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|G_s - G_t|^2 / B^2 of two maps `[B, C, *space]`."""
    with torch.autocast(student.device.type, enabled=False):  # half precision rounds small differences away
        ours, theirs = (F.normalize(f @ f.T, dim=1) for f in (wide(x).flatten(1) for x in (student, teacher)))
        return (ours - theirs).pow(2).mean()


@register(
    "sp",
    family="relations",
    paper=Paper(
        title="Similarity-Preserving Knowledge Distillation",
        authors="Tung & Mori",
        year=2019,
        venue="ICCV",
        arxiv="1907.09682",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="official-code",
)
class SP(Method):
    needs = frozenset({"features"})

    def __init__(self, weight: float = 3000.0) -> None:
        super().__init__()
        self.weight = weight

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        distance = similarity_loss(student.features[-1], teacher.features[-1])
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "similarity": self.weight * same_batch_scale(len(batch)) * distance,
        }

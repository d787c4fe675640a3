"""Similarity-Preserving Knowledge Distillation (Tung, Mori, ICCV 2019).

Samples that look alike to the teacher look alike to the student: the batch's Gram matrices of the last map agree.

    L = CE(z_s, y) + weight |G_s - G_t|^2 / B^2,  G = rows of F F^T normalised, F `[B, C H W]`

CIFAR-100: weight 3000 at batch 64. ImageNet: no value known. The rows have unit norm, so that the loss falls as 1 / B:
`reference_batch` multiplies it by B / reference_batch, which keeps the weight that a batch of that size has (64 for the
3000 above) at every batch size, the shorter last batch of an epoch too.

Deviations: none. RepDistiller's code, with which the authors agreed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, KDBenchError, Method, Output, Paper, register
from kdbench.losses import batch_scale, wide


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

    def __init__(self, weight: float = 3000.0, reference_batch: int | None = None) -> None:
        super().__init__()
        if reference_batch is not None and reference_batch < 1:
            raise KDBenchError(f"sp's reference_batch is {reference_batch}: give 1 or more")
        self.weight, self.reference_batch = weight, reference_batch

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        distance = similarity_loss(student.features[-1], teacher.features[-1])
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "similarity": self.weight * batch_scale(len(batch), self.reference_batch) * distance,
        }

"""Learning Deep Representations with Probabilistic Knowledge Transfer (Passalis, Tefas, ECCV 2018).

The similarities within a batch, read as probabilities, agree.

    L = CE(z_s, y) + weight B / 64 mean_{ij} P_t log((P_t + 1e-7) / (P_s + 1e-7)),  P = rows of (cos(e_i, e_j) + 1) / 2
    normalised to sum to 1

CIFAR-100: weight 30000 at batch 64. ImageNet: no value known.

Deviations: the probabilities are of size 1 / B, so that the paper's loss falls as 1 / B; the factor B / 64 keeps the
weight of batch 64 at every batch size. `similarity_loss` is the loss of the field's code, without weight and factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register
from kdbench.losses import same_batch_scale

EPS = 1e-7


def similarities(embedding: Tensor) -> Tensor:
    """Cosines of the rows of `[B, D]`, moved to [0, 1] and normalised by row: `[B, B]`."""
    unit = embedding / (embedding.norm(dim=1, keepdim=True) + EPS)
    with torch.autocast(embedding.device.type, enabled=False):  # half precision rounds small differences away
        shifted = (unit @ unit.T + 1) / 2
    return shifted / shifted.sum(1, keepdim=True)


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_{ij} P_t log((P_t + 1e-7) / (P_s + 1e-7)) of two embeddings `[B, D]`."""
    ours, theirs = similarities(student), similarities(teacher)
    return (theirs * torch.log((theirs + EPS) / (ours + EPS))).mean()


@register(
    "pkt",
    family="relations",
    paper=Paper(
        title="Learning Deep Representations with Probabilistic Knowledge Transfer",
        authors="Passalis & Tefas",
        year=2018,
        venue="ECCV",
        arxiv="1803.10837",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="official-code",
)
class PKT(Method):
    def __init__(self, weight: float = 30000.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        divergence = similarity_loss(student.embedding, teacher.embedding)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "transfer": self.weight * same_batch_scale(len(batch)) * divergence,
        }

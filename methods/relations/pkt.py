"""Learning Deep Representations with Probabilistic Knowledge Transfer (Passalis, Tefas, ECCV 2018).

The similarities within a batch, read as probabilities, agree.

    L = CE(z_s, y) + weight mean_{ij} P_t log((P_t + 1e-7) / (P_s + 1e-7)),  P = rows of (cos(e_i, e_j) + 1) / 2
    normalised to sum to 1

CIFAR-100: weight 30000 at batch 64. ImageNet: no value known. The probabilities are of size 1 / B, so that the loss
falls as 1 / B: `reference_batch` multiplies it by B / reference_batch, which keeps the weight that a batch of that size
has (64 for the 30000 above) at every batch size, the shorter last batch of an epoch too.

Deviations: none. The loss is the authors', the weight RepDistiller's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, KDBenchError, Method, Output, Paper, register
from kdbench.losses import batch_scale

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
        code="passalis/probabilistic_kt",
    ),
    fidelity="official-code",
)
class PKT(Method):
    def __init__(self, weight: float = 30000.0, reference_batch: int | None = None) -> None:
        super().__init__()
        if reference_batch is not None and reference_batch < 1:
            raise KDBenchError(f"pkt's reference_batch is {reference_batch}: give 1 or more")
        self.weight, self.reference_batch = weight, reference_batch

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        divergence = similarity_loss(student.embedding, teacher.embedding)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "transfer": self.weight * batch_scale(len(batch), self.reference_batch) * divergence,
        }

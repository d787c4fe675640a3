"""Relational Knowledge Distillation (Park, Kim, Lu, Cho, CVPR 2019).

The student's embeddings keep the teacher's geometry: distances of pairs and angles of triples of samples.

    L = CE(z_s, y) + weight [25 huber(D_s, D_t) + 50 huber(A_s, A_t)]
    D_ij = |e_i - e_j| / mean of the positive ones,  A_ijk = cosine of the angle at i between j and k

CIFAR-100: weight 1; huber is smooth L1, a mean over all B^2 pairs and B^3 triples, those of a sample with itself too.
ImageNet: no value known.

Deviations: none from RepDistiller, which is what tables compare with; the authors' own code was not compared.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Method, Output, Paper, Space, register
from kdbench.losses import squared_distances


def distances(embedding: Tensor) -> Tensor:
    """Distances `[B, B]` of the rows of `[B, D]`, over their mean without the diagonal."""
    squares = squared_distances(embedding)
    lengths = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
    return lengths / (lengths.sum() / (lengths > 0).sum().clamp(min=1)).clamp(min=1e-12)


def angles(embedding: Tensor) -> Tensor:
    """Cosines `[B, B, B]` of the angles that samples j and k make at sample i."""
    directions = F.normalize(embedding[None, :, :] - embedding[:, None, :], dim=2)
    with torch.autocast(embedding.device.type, enabled=False):
        return directions @ directions.transpose(1, 2)


@register(
    "rkd",
    family="relations",
    paper=Paper(
        title="Relational Knowledge Distillation",
        authors="Park et al.",
        year=2019,
        venue="CVPR",
        arxiv="1904.05068",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="field-code",
)
class RKD(Method):
    search_space = Space(distance_weight=Around(), angle_weight=Around())

    def __init__(self, weight: float = 1.0, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.weight, self.distance_weight, self.angle_weight = weight, distance_weight, angle_weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        pair = (student.embedding, teacher.embedding)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "distance": self.weight * self.distance_weight * F.smooth_l1_loss(*map(distances, pair)),
            "angle": self.weight * self.angle_weight * F.smooth_l1_loss(*map(angles, pair)),
        }

"""Cross-Layer Distillation with Semantic Calibration (Chen, Mei, Zhang, Wang, Wang, Feng, Chen, AAAI 2021).

Every stage of the student learns from every stage of the teacher, sample by sample in the proportion in which the two
relate the batch's samples alike.

    G = F F^T, F `[B, C H W]`;  q_i = l2norm(MLP(rows of G_i^s)),  k_j = l2norm(MLP(rows of G_j^t))
    a[b, i, :] = softmax_j(q_i[b] . k_j[b])
    L_sem = 1 / (B S) sum_bij a[b, i, j] mean (P_ij(F_i^s)[b] - F_j^t[b])^2
    L = CE(z_s, y) + kd_weight T^2 KL(z_t || z_s) + weight L_sem
    MLP = linear B -> 2 (B // 4), ReLU, linear -> B // 4;  P_ij = 1x1 (C_s -> 2 C_t), BN, ReLU, 3x3, BN, ReLU, 1x1

The KL is part of the paper's recipe (weight 1, T 4); without it set `kd_weight` to 0. CIFAR-100: weight 400. ImageNet:
50. The larger of two maps is pooled to the smaller.

Deviations:
- The MLPs read a sample's row of G, so they are as wide as a batch: the training set's first batch in `prepare` gives
  the size.
- A last batch that is not full has its missing columns filled with zeros, where the official code drops it.
- G, the MLPs and the attention are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, Method, Network, Output, Paper, register
from kdbench.connectors import bottleneck, pool_match
from kdbench.losses import kl, wide


class Embedding(nn.Module):
    """A map's similarities between samples, as unit vectors: `[B, C, H, W]` to `[B, max(batch_size // 4, 1)]`."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size, width = batch_size, max(batch_size // 4, 1)
        self.linear1, self.linear2 = nn.Linear(batch_size, 2 * width), nn.Linear(2 * width, width)

    def forward(self, feature: Tensor) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):
            rows = wide(feature).flatten(1)
            similarities = F.pad(rows @ rows.T, (0, self.batch_size - len(rows)))  # [B, batch_size]
            return F.normalize(self.linear2(self.linear1(similarities).relu()), dim=1)


@register(
    "semckd",
    family="features",
    paper=Paper(
        title="Cross-Layer Distillation with Semantic Calibration",
        authors="Chen et al.",
        year=2021,
        venue="AAAI",
        arxiv="2012.03236",
        code="DefangChen/SimKD",
    ),
    fidelity="official-code",
)
class SemCKD(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 400.0, kd_weight: float = 1.0, temperature: float = 4.0) -> None:
        super().__init__()
        self.weight, self.kd_weight, self.temperature = weight, kd_weight, temperature

    def build(self, student: Network, teacher: Network) -> None:
        self.counts = len(student.shapes.features), len(teacher.shapes.features)
        self.projections = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(*bottleneck(ours[0], 2 * theirs[0], theirs[0])) for theirs in teacher.shapes.features
            )
            for ours in student.shapes.features
        )

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        size = len(next(iter(data.batches())))
        self.queries, self.keys = (nn.ModuleList(Embedding(size) for _ in range(count)) for count in self.counts)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        distances = self.distances(student.features, teacher.features)
        attention = self.attention(student.features, teacher.features)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * kl(student.logits, teacher.logits, self.temperature),
            "semantic": self.weight * (attention * distances).sum(2).mean(),
        }

    def attention(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """How much each of S student stages takes from each of T teacher stages, `[B, S, T]`, summing to 1 over T."""
        queries = torch.stack([embed(f) for embed, f in zip(self.queries, student, strict=True)], 1)  # [B, S, width]
        keys = torch.stack([embed(f) for embed, f in zip(self.keys, teacher, strict=True)], 1)  # [B, T, width]
        with torch.autocast(queries.device.type, enabled=False):
            return (queries @ keys.transpose(1, 2)).softmax(2)

    def distances(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Each sample's mean squared distance between stages, `[B, S, T]`."""
        rows = []
        for feature, projections in zip(student, self.projections, strict=True):
            row = []
            for target, project in zip(teacher, projections, strict=True):  # type: ignore[call-overload]
                ours, theirs = pool_match(feature, target)
                row.append((wide(project(ours)) - wide(theirs)).pow(2).flatten(1).mean(1))
            rows.append(torch.stack(row, 1))
        return torch.stack(rows, 1)

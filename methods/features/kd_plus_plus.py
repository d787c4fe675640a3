"""Improving Knowledge Distillation via Regularizing Feature Norm and Direction (Wang, Cheng, Duan, Wang, Feng, Kong,
ECCV 2024): KD++, which is KD and the ND loss.

The student's embedding shall point to the teacher's mean embedding of the class, and be at least as long as the
teacher's embedding of the sample.

    L = CE(z_s, y) + kd_weight min((epoch - 1) / 20, 1) KL_T(z_t || z_s)
        + nd_weight mean_b (1 - <P(f_s), e_y> / max(|P(f_s)|, |f_t|))
    e_c = the teacher's mean embedding of class c over the training set, of length 1
    P = identity; BatchNorm, dropout of 0.5 and a linear layer where the widths differ

CIFAR-100: T 4; kd_weight and nd_weight by pair: 1 and 2 (resnet56 -> 20), 3.5 and 2 (resnet32x4 -> 8x4), 1 and 1.5
(wrn_40_2 -> 40_1), 3 and 0.5 (resnet50 -> mobilenetv2), 2.5 and 1.5 (resnet32x4 -> shufflenetv1), 4 and 0.5 (->
shufflenetv2). ImageNet: 2.5 and 1 (resnet34 -> 18), 4 and 1 (resnet50 -> mobilenetv1), T 1, a warm-up of 5 of 100
epochs (`warmup_share` 0.05). A `kd_weight` of 0 leaves the ND loss alone, which the paper adds to other methods too:
`dkd+kd++` is its DKD++.

Deviations: the warm-up of 20 of 240 epochs is kept as a share. Means are taken on plain images, in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, Method, Network, Output, Paper, register
from kdbench.connectors import norm
from kdbench.losses import kl, wide


def norm_and_direction(student: Tensor, teacher: Tensor, directions: Tensor) -> Tensor:
    """mean_b (1 - <s, e> / max(|s|, |t|)) of embeddings `[B, D]` and their classes' directions `[B, D]`."""
    length = torch.maximum(student.norm(dim=1), teacher.norm(dim=1)).clamp(min=1e-8)
    return (1 - (student * directions).sum(1) / length).mean()


@register(
    "kd++",
    family="features",
    paper=Paper(
        title="Improving Knowledge Distillation via Regularizing Feature Norm and Direction",
        authors="Wang et al.",
        year=2024,
        venue="ECCV",
        arxiv="2305.17007",
        code="WangYZ1608/Knowledge-Distillation-via-ND",
    ),
    fidelity="official-code",
)
class KDPlusPlus(Method):
    directions: Tensor

    def __init__(
        self,
        kd_weight: float = 1.0,
        nd_weight: float = 2.0,
        temperature: float = 4.0,
        warmup_share: float = 20 / 240,
    ) -> None:
        super().__init__()
        self.kd_weight, self.nd_weight = kd_weight, nd_weight
        self.temperature, self.warmup_share = temperature, warmup_share

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.embedding, teacher.shapes.embedding
        self.transfer: nn.Module = nn.Identity()
        if ours != theirs:
            linear = nn.Linear(ours, theirs)
            nn.init.zeros_(linear.bias)
            self.transfer = nn.Sequential(norm(ours, 0), nn.Dropout(0.5), linear)
        self.register_buffer("directions", torch.zeros(teacher.shapes.num_classes, theirs))

    @torch.no_grad()
    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        sums = torch.zeros_like(self.directions)
        for batch in data.batches():
            embedding = teachers[0](batch.inputs).embedding.to(sums)
            with torch.autocast(sums.device.type, enabled=False):
                sums += F.one_hot(batch.targets, len(sums)).to(sums).T @ embedding
        self.directions.copy_(F.normalize(sums, dim=1))  # a sum points where the mean does

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ramp = min((self.epoch - 1) / max(self.warmup_share * self.epochs, 1.0), 1.0)
        embedding = wide(self.transfer(student.embedding))
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * ramp * kl(student.logits, teacher.logits, self.temperature),
            "nd": self.nd_weight * norm_and_direction(embedding, teacher.embedding, self.directions[batch.targets]),
        }

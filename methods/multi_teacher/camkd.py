"""Confidence-Aware Multi-Teacher Knowledge Distillation (Zhang, Chen, Wang, ICASSP 2022).

Sample by sample, a teacher counts more the better it predicts the label; its last feature map counts more the better
its own classifier reads the label from the student's map.

    w_ki = (1 - softmax_k CE(z_tk,i, y_i)) / (K - 1)
    L_kd = 1 / (B K) sum_ki w_ki KL_T(z_tk,i || z_s,i)
    u_k = ReLU(BN(conv1x1(F_s))),  v_ki = (1 - softmax_k CE(classifier_k(GAP u_k,i), y_i)) / (K - 1)
    L_f = 1 / (B K) sum_ki v_ki mean((u_k,i - F_tk,i)^2)
    L = CE(z_s, y) + L_kd + weight * L_f        (L_f from the second epoch on; v is not detached)

T 4, weight 50, three teachers. As coded, the weights of KD sum to 1/K (`kd_scale="official"`); `"unit"` makes both
sums 1, so that a table compares weightings and not strengths.

F_t is the map that the teacher's head pools, and F_s the student's; of a student with a convolution in the head
(mobilenetv2, shufflenetv2) it is the map before that, as in the official code.

Deviations: the student's map is resized from the original for each teacher; the official code resizes it
cumulatively in the order of the teachers. The official code skips the last partial batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, MultiTeacherMethod, Network, Output, Paper, register
from kdbench.connectors import Embed, global_pool, last_of_stages, pool_to, require_pooled_embedding
from kdbench.losses import sums_to_one, weighted_kl, wide


def confidence(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Weights `[K, B]` of K teachers' logits, larger for those that predict the label better, summing to 1."""
    errors = torch.stack([F.cross_entropy(each, targets, reduction="none") for each in logits])
    return (1 - errors.softmax(0)) / (len(logits) - 1)


@register(
    "camkd",
    family="multi_teacher",
    paper=Paper(
        title="Confidence-Aware Multi-Teacher Knowledge Distillation",
        authors="Zhang et al.",
        year=2022,
        venue="ICASSP",
        arxiv="2201.00007",
        code="Rorozhl/CA-MKD",
    ),
    fidelity="official-code",
)
class CAMKD(MultiTeacherMethod):
    needs = frozenset({"maps", "unpooled"})

    def __init__(
        self, weight: float = 50.0, temperature: float = 4.0, kd_weight: float = 1.0, kd_scale: str = "official"
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.kd_weight = weight, temperature, kd_weight
        self.unit = sums_to_one("camkd", kd_scale)

    def build(self, student: Network, teacher: Sequence[Network]) -> None:
        width = last_of_stages(student.shapes)[0]
        self.embeds = nn.ModuleList(Embed(width, each.shapes.unpooled[0]) for each in teacher)
        self.classifiers = nn.ModuleList(copy.deepcopy(each.classifier) for each in teacher).requires_grad_(False)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        for teacher in teachers:
            require_pooled_embedding("camkd", teacher, data)

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        scale = 1.0 if self.unit else 1.0 / len(teacher)
        logits = [output.logits for output in teacher]
        weights = confidence(logits, batch.targets)
        terms = {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * scale * weighted_kl(student.logits, logits, weights, self.temperature),
        }
        if self.epoch > 1:
            terms["feature"] = self.weight * scale * self.feature_term(batch, student, teacher)
        return terms

    def feature_term(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> Tensor:
        """sum_k v_ki mean((u_k,i - F_tk,i)^2), mean over the batch."""
        logits, distances = [], []
        for embed, classifier, output in zip(self.embeds, self.classifiers, teacher, strict=True):
            theirs = output.unpooled
            ours = embed(resize(last_of_stages(student), theirs.shape[2:]))
            logits.append(wide(classifier(global_pool(ours))))
            distances.append((wide(ours) - wide(theirs)).pow(2).flatten(1).mean(1))
        return (confidence(logits, batch.targets) * torch.stack(distances)).sum(0).mean()


def resize(x: Tensor, space: Sequence[int]) -> Tensor:
    """A map `[B, C, H, W]` at another size: pooled if it is larger, enlarged bilinearly if it is smaller."""
    return pool_to(x, space) if x.shape[2] >= space[0] else F.interpolate(x, size=tuple(space), mode="bilinear")

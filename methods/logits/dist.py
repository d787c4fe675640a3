"""Knowledge Distillation from A Stronger Teacher (Huang, You, Wang, Qian, Xu, NeurIPS 2022).

The student keeps the teacher's relations, not its values: probabilities correlate within each sample (between classes)
and within each class (between samples).

    L = CE(z_s, y) + inter_weight T^2 (1 - mean_b r(p_s[b], p_t[b]))
        + intra_weight T^2 (1 - mean_c r(p_s[:, c], p_t[:, c]))
    p = softmax(z / T), r = Pearson's correlation

CIFAR-100: both weights 2, T 4. ImageNet: both 2, T 1.

Deviations: none. The class term depends on the batch's size; one sample alone gives it no gradient.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Output, Paper, Space, register
from kdbench.losses import pearson


@register(
    "dist",
    family="logits",
    paper=Paper(
        title="Knowledge Distillation from A Stronger Teacher",
        authors="Huang et al.",
        year=2022,
        venue="NeurIPS",
        arxiv="2205.10536",
        code="hunto/DIST_KD",
    ),
    fidelity="official-code",
)
class DIST(Method):
    search_space = Space(inter_weight=Around(), intra_weight=Around(), temperature=Choice(1.0, 2.0, 4.0))

    def __init__(self, inter_weight: float = 2.0, intra_weight: float = 2.0, temperature: float = 4.0) -> None:
        super().__init__()
        self.inter_weight, self.intra_weight, self.temperature = inter_weight, intra_weight, temperature

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (F.softmax(output.logits / self.temperature, dim=1) for output in (student, teacher))
        scale = self.temperature**2
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "inter": self.inter_weight * scale * (1 - pearson(ours, theirs).mean()),
            "intra": self.intra_weight * scale * (1 - pearson(ours.T, theirs.T).mean()),
        }

"""Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective (Zhou, Song, Chen, Zhou,
Wang, Yuan, Zhang, ICLR 2021): weighted soft labels.

A sample's soft label counts the more, the worse the student does on it compared with the teacher.

    L = CE(z_s, y) + alpha T^2 mean_b w_b H(p_t, p_s),  w = 1 - exp(-CE(z_s, y) / CE(z_t, y)), a constant
    p = softmax(z / T), H the cross-entropy

CIFAR-100: T 4, alpha 2.25. ImageNet: T 2, alpha 2.5.

Deviations: none. The paper's CIFAR teachers were trained anew, so its numbers stand on other teachers than CRD's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Output, Paper, Space, register
from kdbench.losses import soft_cross_entropy


@register(
    "wsld",
    family="logits",
    paper=Paper(
        title="Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
        authors="Zhou et al.",
        year=2021,
        venue="ICLR",
        arxiv="2102.00650",
        code="bellymonster/Weighted-Soft-Label-Distillation",
    ),
    fidelity="official-code",
)
class WSLD(Method):
    search_space = Space(alpha=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0))

    def __init__(self, alpha: float = 2.25, temperature: float = 4.0) -> None:
        super().__init__()
        self.alpha, self.temperature = alpha, temperature

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        errors = F.cross_entropy(student.logits, batch.targets, reduction="none")
        theirs = F.cross_entropy(teacher.logits, batch.targets, reduction="none")
        weights = 1 - torch.exp(-errors.detach() / (theirs + 1e-7))
        soft = soft_cross_entropy(student.logits, teacher.logits, self.temperature) * self.temperature**2
        return {"ce": errors.mean(), "soft": self.alpha * (weights * soft).mean()}

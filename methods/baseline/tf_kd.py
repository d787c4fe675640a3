"""Revisiting Knowledge Distillation via Label Smoothing Regularization (Yuan, Tay, Li, Wang, Feng, CVPR 2020):
teacher-free KD with a virtual teacher.

A hand-made teacher gives the right class the probability `correct` and spreads the rest; the student learns from it at
a high temperature. No network teaches.

    L = (1 - alpha) CE(z_s, y) + alpha weight mean_b KL(softmax(v / T) || softmax(z_s)),
    v_c = correct for c = y, (1 - correct) / (K - 1) else

CIFAR-100, by network: alpha 0.1, T 20, weight 1 (resnet18); 0.1, 40, 0.5 (googlenet); 0.95, 40, 0.01 (mobilenetv2);
0.95, 10, 0.01 (shufflenetv2); correct 0.99. ImageNet: alpha 0.1, T 20.

Deviations: none. The official code takes the mean over the 100 classes and multiplies it (by 100 for resnet18), which
is `weight` times the sum over classes that all methods here use. As there, the temperature acts on the virtual
probabilities, not on logits, and there is no T^2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Output, Paper, Space, register
from kdbench.losses import log_kl


@register(
    "tf_kd",
    family="baseline",
    paper=Paper(
        title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
        authors="Yuan et al.",
        year=2020,
        venue="CVPR",
        arxiv="1909.11723",
        code="yuanli2333/Teacher-free-Knowledge-Distillation",
    ),
    fidelity="official-code",
)
class TfKD(Method):
    uses_teacher = False
    search_space = Space(alpha=Choice(0.1, 0.5, 0.9, 0.95), temperature=Choice(5.0, 10.0, 20.0, 40.0), weight=Around())

    def __init__(
        self, alpha: float = 0.1, temperature: float = 20.0, correct: float = 0.99, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.alpha, self.temperature, self.correct, self.weight = alpha, temperature, correct, weight

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        logits = student.logits
        virtual = torch.full_like(logits, (1 - self.correct) / (logits.shape[1] - 1))
        virtual = virtual.scatter(1, batch.targets[:, None], self.correct)
        target = F.log_softmax(virtual / self.temperature, dim=1)
        divergence = log_kl(F.log_softmax(logits, dim=1), target).mean()
        return {
            "ce": (1 - self.alpha) * F.cross_entropy(logits, batch.targets),
            "virtual": self.alpha * self.weight * divergence,
        }

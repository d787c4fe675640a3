"""Revisiting Knowledge Distillation via Label Smoothing Regularization (Yuan, Tay, Li, Wang, Feng, CVPR 2020):
teacher-free KD with a virtual teacher.

A hand-made teacher gives the right class the probability `correct` and spreads the rest; the student learns from it at
a high temperature. No network teaches.

    L = (1 - alpha) CE(z_s, y) + alpha multiplier mean_{b, c} KL(softmax(v / T) || softmax(z_s)),
    v_c = correct for c = y, (1 - correct) / (K - 1) else

CIFAR-100: alpha 0.95, T 20, correct 0.99, multiplier 1 (some networks: 100). ImageNet: alpha 0.1, T 20.

Deviations: none. As in the official code the divergence is a mean over classes too, not the sum of this benchmark's
other methods, and the temperature acts on the virtual probabilities, not on logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register
from kdbench.losses import log_kl


@register(
    "tf_kd",
    family="baseline",
    paper=Paper(
        "Revisiting Knowledge Distillation via Label Smoothing Regularization",
        "Yuan et al.",
        2020,
        "CVPR",
        "1909.11723",
        "yuanli2333/Teacher-free-Knowledge-Distillation",
    ),
)
class TfKD(Method):
    uses_teacher = False

    def __init__(
        self, alpha: float = 0.95, temperature: float = 20.0, correct: float = 0.99, multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.alpha, self.temperature, self.correct, self.multiplier = alpha, temperature, correct, multiplier

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        logits = student.logits
        virtual = torch.full_like(logits, (1 - self.correct) / (logits.shape[1] - 1))
        virtual = virtual.scatter(1, batch.targets[:, None], self.correct)
        target = F.log_softmax(virtual / self.temperature, dim=1)
        regular = log_kl(F.log_softmax(logits, dim=1), target).mean() / logits.shape[1]
        return {
            "ce": (1 - self.alpha) * F.cross_entropy(logits, batch.targets),
            "virtual": self.alpha * self.multiplier * regular,
        }

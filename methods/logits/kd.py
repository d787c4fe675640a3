"""Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean 2015).

The student imitates the teacher's class probabilities at a raised temperature, where the small ones carry information.

    L = ce_weight * CE(z_s, y) + kd_weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

CIFAR: 0.1 CE + 0.9 KL, T 4 (Tian et al. 2020). ImageNet: 0.5 CE + 0.5 KL, T 1 (mdistiller).

Deviations: the paper gives no fixed weights; those of the field's CIFAR-100 tables are the defaults.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Output, Paper, Space, register
from kdbench.losses import kl


@register(
    "kd",
    family="logits",
    paper=Paper(
        title="Distilling the Knowledge in a Neural Network", authors="Hinton et al.", year=2015, arxiv="1503.02531"
    ),
    fidelity="field-code",
)
class KD(Method):
    search_space = Space(kd_weight=Around(), temperature=Choice(1.0, 2.0, 3.0, 4.0, 6.0, 8.0))

    def __init__(self, temperature: float = 4.0, ce_weight: float = 0.1, kd_weight: float = 0.9) -> None:
        super().__init__()
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * kl(student.logits, teacher.logits, self.temperature),
        }

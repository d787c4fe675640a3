"""Curriculum Temperature for Knowledge Distillation (Li, Li, Yang, Zhao, Song, Luo, Li, Yang, AAAI 2023).

The temperature is learned against the student: its gradient is reversed, more and more in the first epochs.

    L = ce_weight CE(z_s, y) + kd_weight KL_T(z_t || z_s),  T = start + span sigmoid(theta)
    gradient of theta times lambda(epoch), a cosine from 0 to -1 over the first 10 of 240 epochs

CIFAR-100: 0.1 and 0.9, start 1, span 20, theta from 1. ImageNet: both weights 1, the ramp is 5 of 120 epochs.

Deviations:
- The ramp of 10 epochs is kept as a share of the training.
- Theta has weight decay, as in the official code (where the recipe's reaches biases).
- This is the global temperature; the paper's other one, for each sample, is not in that code.
- In published logs T falls to its lower end within a few epochs, where the method is KD with T = `start`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, Method, Network, Output, Paper, Space, register
from kdbench.losses import kl


@register(
    "ctkd",
    family="logits",
    paper=Paper(
        title="Curriculum Temperature for Knowledge Distillation",
        authors="Li et al.",
        year=2023,
        venue="AAAI",
        arxiv="2211.16231",
        code="zhengli97/CTKD",
    ),
    fidelity="official-code",
)
class CTKD(Method):
    search_space = Space(kd_weight=Around(), start=Choice(1.0, 2.0, 4.0), span=Around(4.0))

    def __init__(
        self,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        start: float = 1.0,
        span: float = 20.0,
        ramp_share: float = 10 / 240,
    ) -> None:
        super().__init__()
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.start, self.span, self.ramp_share = start, span, ramp_share

    def build(self, student: Network, teacher: Network) -> None:
        self.theta = nn.Parameter(torch.ones(1))

    def temperature(self) -> Tensor:
        """T `[1]`, whose gradient reaches theta multiplied by lambda(epoch)."""
        reversal = (math.cos(math.pi * self.warmup(self.ramp_share)) - 1) / 2  # 0 to -1
        theta = reversal * self.theta + (1 - reversal) * self.theta.detach()
        return self.start + self.span * torch.sigmoid(theta)

    def watch(self) -> dict[str, Tensor]:
        return {"temperature": self.temperature()}

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        temperature = self.temperature()
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * kl(student.logits, teacher.logits, temperature),
        }

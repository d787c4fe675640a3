"""Decoupled Knowledge Distillation (Zhao, Cui, Song, Qiu, Liang, CVPR 2022).

KL at a temperature is the sum of a term on the target class against the rest (TCKD) and a term within the rest (NCKD)
that a confident teacher all but switches off; weighing them apart brings the second back.

    L = CE(z_s, y) + min(epoch / 20, 1) * (alpha * TCKD + beta * NCKD), each with T^2

CIFAR-100: alpha 1, T 4, beta by pair: 2 (resnet56 -> resnet20, resnet110 -> resnet32), 6 (vgg13 -> vgg8 and
mobilenetv2, wrn_40_2 -> wrn_16_2 and wrn_40_1), 8 (others). ImageNet: T 1, beta 0.5 (resnet18) or 2 (mobilenetv1), no
warm-up (`warmup_share` 0).

Deviations: the warm-up of 20 of 240 epochs is kept as a share of the training, so that shorter recipes end it too;
the two terms are computed from log-probabilities, equal to the official code but finite for confident networks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, LogUniform, Method, Output, Paper, Space, register
from kdbench.losses import decoupled_kl


@register(
    "dkd",
    family="logits",
    paper=Paper(
        title="Decoupled Knowledge Distillation",
        authors="Zhao et al.",
        year=2022,
        venue="CVPR",
        arxiv="2203.08679",
        code="megvii-research/mdistiller",
    ),
    fidelity="official-code",
)
class DKD(Method):
    search_space = Space(alpha=Around(), beta=LogUniform(0.25, 16.0), temperature=Choice(1.0, 2.0, 4.0, 8.0))

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        ce_weight: float = 1.0,
        warmup_share: float = 20 / 240,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.ce_weight, self.warmup_share = ce_weight, warmup_share

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        tckd, nckd = decoupled_kl(student.logits, teacher.logits, batch.targets, self.temperature)
        ramp = self.warmup(self.warmup_share)
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "tckd": ramp * self.alpha * tckd,
            "nckd": ramp * self.beta * nckd,
        }

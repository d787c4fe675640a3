"""FitNets with several teachers (Romero et al., ICLR 2015), a baseline of every multi-teacher paper.

The student imitates the middle map of each teacher through a regressor of its own, and the mean of their predictions'
divergences.

    L = CE(z_s, y) + mean_k KL_T(z_tk || z_s) + weight * mean_k mean((ReLU(BN(conv_k(F_s))) - F_tk)^2)

weight 100, second stage, T 4, three teachers of one architecture; the last term starts in the second epoch. The KL
terms are `aver_mkd`'s and part of the recipe.

Deviations:
- This is the loss that the code of CA-MKD (Zhang et al., 2022) and of AE-KD (Du et al., 2020) intends. Both average the
  hint terms through `torch.tensor`, which cuts the graph: as published the last term trains nothing, and rows of tables
  made with that code repeat those of `aver_mkd`.
- A student's map that is smaller than a teacher's by another factor than two meets the teacher's map pooled, as in
  `fitnet`.
- The official code skips the last partial batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench import Batch, Network, Output, Paper, register
from kdbench.methods.features.fitnet import FitNet
from kdbench.methods.multi_teacher.aver_mkd import AverMKD


@register(
    "fitnet_mkd",
    family="multi_teacher",
    paper=Paper(
        title="FitNets: Hints for Thin Deep Nets",
        authors="Romero et al.",
        year=2015,
        venue="ICLR",
        arxiv="1412.6550",
        code="Rorozhl/CA-MKD",
    ),
    fidelity="field-code",
)
class FitNetMKD(AverMKD):
    needs = frozenset({"features"})

    def __init__(
        self,
        weight: float = 100.0,
        stage: int = 2,
        kd_weight: float = 1.0,
        temperature: float = 4.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(kd_weight, temperature, ce_weight)
        self.hint_weight, self.stage = weight, stage

    def build(self, student: Network, teacher: Sequence[Network]) -> None:
        self.hints = fitted(student, teacher, self.stage)

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        terms = super().loss(batch, student, teacher)
        if self.epoch > 1:
            terms["feature"] = self.hint_weight * hint_losses(self.hints, batch, student, teacher).mean()
        return terms


def fitted(student: Network, teachers: Sequence[Network], stage: int) -> nn.ModuleList:
    """FitNets' regressor from the student's map of a stage to each teacher's.

    Raises:
        NotApplicable: if a network has no such stage, or maps cannot be compared.
    """
    parts = [FitNet(weight=1.0, stage=stage) for _ in teachers]
    for part, teacher in zip(parts, teachers, strict=True):
        part.build(student, teacher)
    return nn.ModuleList(parts)


def hint_losses(hints: nn.ModuleList, batch: Batch, student: Output, teacher: Sequence[Output]) -> Tensor:
    """The mean squared distance from each teacher's map, `[K]`."""
    terms = [hint.loss(batch, student, output) for hint, output in zip(hints, teacher, strict=True)]
    return torch.stack([term["feature"] for term in terms])

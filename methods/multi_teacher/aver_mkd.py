"""Learning from several teachers with equal weights: the baseline of every multi-teacher paper.

    L = CE(z_s, y) + weight * mean_k KL_T(z_tk || z_s)

As in the code of Zhang et al. (CA-MKD, ICASSP 2022): weight 1, T 4, three teachers of one architecture.

Deviations: none. The official code skips the last partial batch; here it is used, as for every method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, MultiTeacherMethod, Output, Paper, register
from kdbench.losses import kl


@register(
    "aver_mkd",
    family="multi_teacher",
    paper=Paper(
        title="Learning from Multiple Teacher Networks",
        authors="You et al.",
        year=2017,
        venue="KDD",
        code="Rorozhl/CA-MKD",
    ),
    fidelity="field-code",
)
class AverMKD(MultiTeacherMethod):
    def __init__(self, weight: float = 1.0, temperature: float = 4.0, ce_weight: float = 1.0) -> None:
        super().__init__()
        self.weight, self.temperature, self.ce_weight = weight, temperature, ce_weight

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        divergences = torch.stack([kl(student.logits, output.logits, self.temperature) for output in teacher])
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.weight * divergences.mean(),
        }

"""Adaptive Knowledge Distillation Based on Entropy (Kwon, Na, Lee, Kim, ICASSP 2020).

Sample by sample, a teacher counts less the less sure it is: the larger the entropy of its prediction among the
teachers'.

    H_ki = entropy of softmax(z_tk,i),  w_ki = 1 - H_ki / sum_j H_ji
    L = CE(z_s, y) + weight / (B K) sum_ki w_ki KL_T(z_tk,i || z_s,i)

As in the code of Zhang et al. (CA-MKD, ICASSP 2022): weight 1, T 4, three teachers of one architecture. The weights sum
to K - 1, so that KD counts (K - 1) / K (`kd_scale="official"`); `"unit"` makes their sum 1, so that a table compares
weightings and not strengths.

Deviations:
- The paper is about speech and was not at hand; this is its form in that code.
- The code's log(softmax(z)) is not a number where a probability underflows, which log_softmax is not.
- Teachers that are all perfectly sure count alike.
- The official code skips the last partial batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, MultiTeacherMethod, Output, Paper, register
from kdbench.losses import sums_to_one, weighted_kl


def certainty(logits: Sequence[Tensor]) -> Tensor:
    """1 - each teacher's share of the K teachers' entropies, `[K, B]`; over the teachers it sums to K - 1."""
    log_p = F.log_softmax(torch.stack(tuple(logits)), dim=2)  # [K, B, classes]
    entropies = -(log_p.exp() * log_p).sum(2) + torch.finfo(log_p.dtype).tiny  # never 0 / 0
    return 1 - entropies / entropies.sum(0)


@register(
    "ebkd",
    family="multi_teacher",
    paper=Paper(
        title="Adaptive Knowledge Distillation Based on Entropy",
        authors="Kwon et al.",
        year=2020,
        venue="ICASSP",
        code="Rorozhl/CA-MKD",
    ),
    fidelity="field-code",
)
class EBKD(MultiTeacherMethod):
    def __init__(
        self, weight: float = 1.0, temperature: float = 4.0, ce_weight: float = 1.0, kd_scale: str = "official"
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.ce_weight = weight, temperature, ce_weight
        self.unit = sums_to_one("ebkd", kd_scale)

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        logits = [output.logits for output in teacher]
        weights = certainty(logits) / (len(logits) - 1 if self.unit else len(logits))
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.weight * weighted_kl(student.logits, logits, weights, self.temperature),
        }

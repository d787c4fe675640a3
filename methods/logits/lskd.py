"""Logit Standardization in Knowledge Distillation (Sun, Ren, Li, Wang, Cao, CVPR 2024).

The student need not match the range of the teacher's logits, only their shape: both are z-scored, row by row, before a
method that works on logits sees them.

    L = ce_weight CE(z_s, y) + weight L_base(Z(z_s), Z(z_t)),  Z(z) = (z - mean(z)) / (std(z) + 1e-7), std unbiased

CIFAR-100: weight 9, T 2. `base` is `kd`, `dkd` (the weight multiplies alpha and beta) or `mlld` (its 0.9 becomes the
weight, its first temperature T); ce_weight is the base's, 0.1 or for dkd 1. T, the weight and dkd's beta were tuned for
each pair on the test set; the values above are those of most pairs. ImageNet: no value known.

Deviations: none. Labels see the plain logits; of mlld's terms only the divergences see standardised ones.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, KDBenchError, Method, Output, Paper, register
from kdbench.methods.logits.dkd import DKD
from kdbench.methods.logits.kd import KD
from kdbench.methods.logits.mlld import MLLD


def standardised(logits: Tensor) -> Tensor:
    """z-scores of each row of `[B, K]`."""
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


class StandardisedMLLD(MLLD):
    """MLLD with standardised divergences; its masks and Gram matrices see the plain logits."""

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return super().divergence(standardised(student), standardised(teacher), temperature)


@register(
    "lskd",
    family="logits",
    paper=Paper(
        title="Logit Standardization in Knowledge Distillation",
        authors="Sun et al.",
        year=2024,
        venue="CVPR",
        arxiv="2403.01427",
        code="sunshangquan/logit-standardization-KD",
    ),
    fidelity="official-code",
)
class LSKD(Method):
    def __init__(
        self,
        base: str = "kd",
        ce_weight: float | None = None,
        weight: float = 9.0,
        temperature: float = 2.0,
        alpha: float = 1.0,
        beta: float = 8.0,
    ) -> None:
        super().__init__()
        self.ce_weight = ce_weight if ce_weight is not None else 1.0 if base == "dkd" else 0.1
        if base == "kd":
            self.base: Method = KD(temperature, 0.0, weight)
        elif base == "dkd":
            self.base = DKD(alpha * weight, beta * weight, temperature, 0.0)
        elif base == "mlld":
            self.base = StandardisedMLLD(self.ce_weight, weight, temperature)
        else:
            raise KDBenchError(f"lskd's base is {base!r}: give kd, dkd or mlld")
        self.needs = type(self.base).needs

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        self.base.epoch, self.base.epochs = self.epoch, self.epochs
        if isinstance(self.base, StandardisedMLLD):
            return self.base.loss(batch, student, teacher)
        both = (dataclasses.replace(output, logits=standardised(output.logits)) for output in (student, teacher))
        terms = self.base.loss(batch, *both)
        return {**terms, "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets)}

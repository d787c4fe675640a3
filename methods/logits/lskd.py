"""Logit Standardization in Knowledge Distillation (Sun, Ren, Li, Wang, Cao, CVPR 2024).

The student need not match the range of the teacher's logits, only their shape: both are z-scored, row by row, before a
method that works on logits sees them.

    L = ce_weight CE(z_s, y) + weight L_base(Z(z_s), Z(z_t)),  Z(z) = (z - mean(z)) / (std(z) + 1e-7), std unbiased

`base` is `kd` (weight 9, T 2), `dkd` (the weight multiplies alpha and beta; T 2) or `mlld` (its 0.9 becomes 9). The
paper tuned T, the weight and dkd's beta for each pair on the test set; the values above are those of most pairs.

Deviations: none. The cross-entropy sees the plain logits.
"""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from kdbench.methods.logits.dkd import DKD
from kdbench.methods.logits.kd import KD
from kdbench.methods.logits.mlld import MLLD
from torch import Tensor

from kdbench import Batch, KDBenchError, Method, Output, Paper, register


def standardised(logits: Tensor) -> Tensor:
    """z-scores of each row of `[B, K]`."""
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


@register(
    "lskd",
    family="logits",
    paper=Paper(
        "Logit Standardization in Knowledge Distillation",
        "Sun et al.",
        2024,
        "CVPR",
        "2403.01427",
        "sunshangquan/logit-standardization-KD",
    ),
    fidelity="official-code",
)
class LSKD(Method):
    def __init__(
        self,
        base: str = "kd",
        ce_weight: float = 0.1,
        weight: float = 9.0,
        temperature: float = 2.0,
        alpha: float = 1.0,
        beta: float = 8.0,
    ) -> None:
        super().__init__()
        if base == "kd":
            self.base: Method = KD(temperature, 0.0, weight)
        elif base == "dkd":
            self.base = DKD(alpha * weight, beta * weight, temperature, 0.0)
        elif base == "mlld":
            self.base = MLLD(ce_weight, weight)
        else:
            raise KDBenchError(f"lskd's base is {base!r}: give kd, dkd or mlld")
        self.ce_weight, self.needs = ce_weight, type(self.base).needs

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        self.base.epoch, self.base.epochs = self.epoch, self.epochs
        terms = self.base.loss(batch, self._standardised(student), self._standardised(teacher))
        views = [student, *([student.strong] if student.strong is not None and self.needs else [])]
        terms["ce"] = self.ce_weight * sum(F.cross_entropy(view.logits, batch.targets) for view in views)
        return terms

    def _standardised(self, output: Output) -> Output:
        strong = None if output.strong is None else self._standardised(output.strong)
        return dataclasses.replace(output, logits=standardised(output.logits), strong=strong)

"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register
from kdbench.losses import kl


@register(
    "my_method",
    family="logits",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    def __init__(self, ce_weight: float = 0.1, weight: float = 0.9, temperature: float = 4.0) -> None:
        super().__init__()
        self.ce_weight, self.weight, self.temperature = ce_weight, weight, temperature

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.weight * kl(student.logits, teacher.logits, self.temperature),  # your term here
        }

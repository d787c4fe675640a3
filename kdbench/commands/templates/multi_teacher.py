"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, MultiTeacherMethod, Output, Paper, register
from kdbench.losses import kl


@register(
    "my_method",
    family="multi_teacher",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(MultiTeacherMethod):
    def __init__(self, weight: float = 1.0, temperature: float = 4.0) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        terms = [kl(student.logits, output.logits, self.temperature) for output in teacher]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": self.weight * torch.stack(terms).mean(),  # your term here
        }

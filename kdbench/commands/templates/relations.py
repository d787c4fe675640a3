"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register


@register(
    "my_method",
    family="relations",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (F.normalize(output.embedding, dim=1) for output in (student, teacher))  # [B, D]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "relation": self.weight * F.mse_loss(ours @ ours.T, theirs @ theirs.T),  # [B, B]; your term here
        }

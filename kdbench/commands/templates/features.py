"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Output, Paper, register


@register(
    "my_method",
    family="features",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    needs = frozenset({"features"})

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Network, teacher: Network) -> None:
        self.project = nn.Linear(student.shapes.features[-1][0], teacher.shapes.features[-1][0])

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours = self.project(student.features[-1].flatten(2).mean(2))  # [B, C_t]
        theirs = teacher.features[-1].flatten(2).mean(2)  # [B, C_t]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "feature": self.weight * F.mse_loss(ours, theirs),  # your term here
        }

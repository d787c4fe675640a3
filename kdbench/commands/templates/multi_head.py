"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Output, Paper, register
from kdbench.losses import kl


@register(
    "my_method",
    family="multi_head",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    needs = frozenset({"features"})

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Network, teacher: Network) -> None:
        shapes = student.shapes
        self.heads = nn.ModuleList(nn.Linear(shape[0], shapes.num_classes) for shape in shapes.features[:-1])

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        pooled = [feature.flatten(2).mean(2) for feature in student.features[:-1]]  # [B, C_k] each
        logits = [head(vector) for head, vector in zip(self.heads, pooled, strict=True)]
        terms = [kl(head, teacher.logits, 4.0) for head in logits]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": kl(student.logits, teacher.logits, 4.0),
            "heads": self.weight * torch.stack(terms).sum(),  # your term here
        }

"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, MutualMethod, Output, Paper, register
from kdbench.losses import kl


@register(
    "my_method",
    family="mutual",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(MutualMethod):
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch, student: Sequence[Output], teacher: None) -> dict[str, Tensor]:
        first, second = (output.logits for output in student)
        return {
            "ce": F.cross_entropy(first, batch.targets) + F.cross_entropy(second, batch.targets),
            "mutual": self.weight * (kl(first, second.detach()) + kl(second, first.detach())),  # your term here
        }

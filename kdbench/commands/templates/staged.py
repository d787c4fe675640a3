"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, Phase, register
from kdbench.losses import kl


@register(
    "my_method",
    family="staged",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("imitate", share=0.5), Phase("learn", share=0.5))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        if self.phase == "imitate":
            return {"kd": kl(student.logits, teacher.logits, 4.0)}  # your first stage here
        return {"ce": F.cross_entropy(student.logits, batch.targets)}

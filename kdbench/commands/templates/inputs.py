"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = ce_weight * CE(z_s, y) + weight * ...

Deviations: none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Method, Paper, Step, register
from kdbench.losses import kl


@register(
    "my_method",
    family="inputs",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    def __init__(self, weight: float = 0.9, temperature: float = 4.0, noise: float = 0.1) -> None:
        super().__init__()
        self.weight, self.temperature, self.noise = weight, temperature, noise

    def step(self, step: Step) -> Mapping[str, Tensor]:
        batch, teacher = step.batch, step.teachers[0]
        moved = batch.inputs + self.noise * torch.randn_like(batch.inputs)  # your own inputs here
        with torch.no_grad():
            theirs = teacher(moved)
        terms = {
            "ce": F.cross_entropy(step.forward().logits, batch.targets),
            "kd": self.weight * kl(step.forward(inputs=moved).logits, theirs.logits, self.temperature),
        }
        step.update(terms)
        return terms

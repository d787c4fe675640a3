"""Densely Guided Knowledge Distillation using Multiple Teacher Assistants (Son, Na, Choi, Hwang, ICCV 2021).

In a chain of assistants errors add up. Here every network learns from all networks above it, the teacher included, and
while the student trains one of them, drawn anew for each batch, is left out.

    L = (1 - kd_weight) CE(z, y) + kd_weight T^2 sum_{k above, kept} mean_{b, c} KL(softmax(z_k / T) || softmax(z / T))

kd_weight 1 (no labels), T 5, dropped 1. The paper's chains have up to three assistants; here two.

Deviations:
- As in `takd`, the networks share the recipe's epochs in equal parts and pass on their last weights.
- The divergence is a mean over classes too, as in the official code (`reduction="classes"` sums): without labels and
  with 100 classes a weight decay made for cross-entropy then weighs heavily.
- The code leaves one network out for whatever it trains; here only for the student, and never the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdbench import Choice, KDBenchError, Paper, Space, Uniform, register
from kdbench.methods.staged.takd import TAKD


@register(
    "dgkd",
    family="staged",
    paper=Paper(
        title="Densely Guided Knowledge Distillation using Multiple Teacher Assistants",
        authors="Son et al.",
        year=2021,
        venue="ICCV",
        arxiv="2009.08825",
        code="wonchulSon/DGKD",
    ),
    fidelity="official-code",
)
class DGKD(TAKD):
    search_space = Space(kd_weight=Uniform(0.5, 1.0), temperature=Choice(1.0, 2.0, 5.0, 10.0, 20.0))

    def __init__(
        self,
        assistants: int = 2,
        temperature: float = 5.0,
        kd_weight: float = 1.0,
        dropped: int = 1,
        reduction: str = "elements",
    ) -> None:
        super().__init__(assistants, temperature, kd_weight, reduction)
        if not 0 <= dropped <= assistants:
            raise KDBenchError(f"dgkd's dropped is {dropped}: of {assistants + 1} guides leave out 0 to {assistants}")
        self.dropped = dropped

    def guides(self, above: int) -> Sequence[int]:
        everyone = torch.arange(above + 1)
        if self.phase == "student":
            everyone = torch.randperm(above + 1)[self.dropped :].sort().values
        return everyone.tolist()

"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates, and why that should help.

    L = L_det + weight * ...

Deviations: none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, NotApplicable, Paper, register


@register(
    "my_method",
    family="detection",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    needs = frozenset({"detector"})
    reads_logits = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Any, teacher: Any) -> None:
        if student.head.strides != teacher.head.strides:
            raise NotApplicable(f"my_method compares levels, but {student.name!r} and {teacher.name!r} have others")
        self.project = nn.Conv2d(student.head.width, teacher.head.width, 1)

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        levels = zip(student.pyramid, teacher.pyramid, strict=True)  # [B, C, h, w], fine to coarse
        gaps = [F.mse_loss(self.project(ours).float(), theirs.float()) for ours, theirs in levels]
        return {
            **student.supervised(batch),
            "feature": self.weight * torch.stack(gaps).mean(),  # your term here
        }

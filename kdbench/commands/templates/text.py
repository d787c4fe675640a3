"""TITLE OF THE PAPER (authors, venue year).

The idea in two lines: what the student imitates of each token, and why that should help.

    L = CE(z_s, y) + weight * mean over real tokens of |W h_s - h_t|^2 / D

Deviations: none.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdbench import Batch, Method, Paper, register
from kdbench.connectors import fitted, require_same_tokens, width_of
from kdbench.losses import token_mse


@register(
    "my_method",
    family="text",
    paper=Paper(title="TITLE OF THE PAPER", authors="Authors", year=2026, arxiv=""),
    fidelity="unchecked",  # "paper" or "official-code" once a test holds it against the equations or the authors' code
)
class MyMethod(Method):
    needs = frozenset({"tokens"})  # and "attentions", for queries, keys, values and what follows from them
    reads_logits = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Any, teacher: Any) -> None:
        require_same_tokens("my_method", student, teacher)
        self.fit = fitted(width_of(student), width_of(teacher))

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        hidden = token_mse(self.fit(student.hidden[-1]), teacher.hidden[-1], student.mask)  # your term here
        return {**student.supervised(batch), "hidden": self.weight * hidden}

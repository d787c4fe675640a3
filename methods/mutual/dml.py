"""Deep Mutual Learning (Zhang, Xiang, Hospedales, Lu, CVPR 2018).

Students without a teacher learn from the labels and from each other's predictions.

    L_i = CE(z_i, y) + weight * mean_{j != i} KL(sg p_j || p_i), temperature 1

CIFAR and ImageNet: weight 1, two students.

Deviations: all students are updated at once from one forward pass (`update="simultaneous"`); the paper's alternating
updates are `update="sequential"`. One student is deployed, so that its cost compares with the other methods'; the
record also has the mean student's and the ensemble's accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, MutualMethod, Network, Output, Paper, Step, register
from kdbench.connectors import Ensemble
from kdbench.losses import peer_kl


@register(
    "dml",
    family="mutual",
    paper=Paper(title="Deep Mutual Learning", authors="Zhang et al.", year=2018, venue="CVPR", arxiv="1706.00384"),
    fidelity="paper",
)
class DML(MutualMethod):
    def __init__(
        self, n_students: int = 2, weight: float = 1.0, update: str = "simultaneous", deployment: str = "student"
    ) -> None:
        super().__init__()
        if n_students < 2 or update not in ("simultaneous", "sequential") or deployment not in ("student", "ensemble"):
            raise KDBenchError(
                f"dml needs n_students >= 2, update 'simultaneous' or 'sequential' and deployment 'student' or "
                f"'ensemble', not {n_students}, {update!r}, {deployment!r}"
            )
        self.n_students, self.weight, self.update, self.deployment = n_students, weight, update, deployment

    def members(self) -> tuple[str, ...]:
        return ("student",) * self.n_students

    def loss(self, batch: Batch, student: Sequence[Output], teacher: None) -> dict[str, Tensor]:
        logits = [output.logits for output in student]
        terms = {}
        for i, own in enumerate(logits):
            terms[f"ce_{i}"] = F.cross_entropy(own, batch.targets)
            terms[f"mutual_{i}"] = self.weight * peer_kl(logits, i, 1.0)
        return terms

    def step(self, step: Step) -> Mapping[str, Tensor]:
        if self.update == "simultaneous":
            return super().step(step)
        outputs = [step.forward(i) for i in range(self.n_students)]
        done: dict[str, Tensor] = {}
        for i in range(self.n_students):
            terms = self.loss(step.batch, outputs, None)
            own = {name: terms[name] for name in (f"ce_{i}", f"mutual_{i}")}
            step.update(own)
            done.update(own)
            if i + 1 < self.n_students:  # those that follow see this student as its update left it
                torch.clear_autocast_cache()  # else autocast would go on with the weights of before the update
                with torch.no_grad():
                    outputs[i] = step.forward(i)
        return done

    def deploy(self, student: Sequence[Network]) -> nn.Module:
        return student[0] if self.deployment == "student" else Ensemble(student)

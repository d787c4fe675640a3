"""FitNets: Hints for Thin Deep Nets (Romero, Ballas, Kahou, Chassang, Gatta, Bengio, ICLR 2015).

A regressor on one of the student's middle maps imitates the teacher's map at the same stage (the hint).

    L = CE(z_s, y) + weight * mean((ReLU(BN(conv(F_s))) - F_t)^2)

CIFAR-100: weight 100, second stage.

Deviations: one joint training with cross-entropy, as in the field's tables (Tian et al. 2020), not the paper's two
stages; a student's map that is smaller than the teacher's by another factor than two meets the teacher's map pooled.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Network, NotApplicable, Output, Paper, register
from kdbench.connectors import Hint, pool_match


@register(
    "fitnet",
    family="features",
    paper=Paper(
        title="FitNets: Hints for Thin Deep Nets",
        authors="Romero et al.",
        year=2015,
        venue="ICLR",
        arxiv="1412.6550",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="field-code",
)
class FitNet(Method):
    """`stage` counts from 1; it is the literature's hint layer, whose layer 0 is the stem."""

    needs = frozenset({"features"})

    def __init__(self, weight: float = 100.0, stage: int = 2) -> None:
        super().__init__()
        self.weight, self.stage = weight, stage

    def build(self, student: Network, teacher: Network) -> None:
        for network in (student, teacher):
            if not 1 <= self.stage <= len(network.shapes.features):
                count = len(network.shapes.features)
                raise NotApplicable(f"fitnet's stage is {self.stage}, but network {network.name!r} has {count} stages")
        ours, theirs = (network.shapes.features[self.stage - 1] for network in (student, teacher))
        if len(ours) != len(theirs):
            raise NotApplicable(
                f"fitnet cannot compare features of {student.name!r} {ours} and {teacher.name!r} {theirs}"
            )
        self.hint = Hint(ours, theirs)

    def reads(self, stages: int) -> tuple[int, ...]:
        return (self.stage,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = pool_match(self.hint(student.features[self.stage - 1]), teacher.features[self.stage - 1])
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "feature": self.weight * F.mse_loss(ours, theirs),
        }

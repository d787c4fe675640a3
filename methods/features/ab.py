"""Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons (Heo et al., AAAI 2019).

Before training for the task, the student learns on which side of zero each neuron of the teacher is, with a margin.

    first 30 of 240 epochs: L = weight 3 / (1000 B) sum_i 2^(i - n) sum [(s + m)^2 1(s > -m, t <= 0) + (s - m)^2
                            1(s <= m, t > 0)],  s = BN(conv(pre-activation of stage i of n)), t the teacher's, m 1
    then:                   L = CE(z_s, y)

The convolution is FitNets' for two sizes of map; where both maps have one shape, s is the student's as it is.
CIFAR-100: weight 1. ImageNet: no value known.

Deviations:
- RepDistiller initialises for 30 epochs before its 240; here they are part of the training, as a share, so that all
  methods train equally long.
- The head has no gradient in them.
- Stages are matched from the shallowest on where their numbers differ, and a teacher's map that is larger, but not
  twice as large, is pooled; there both fail.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Output, Paper, Phase, register
from kdbench.connectors import Hint, init_phases, stage_pairs
from kdbench.losses import wide


@register(
    "ab",
    family="features",
    paper=Paper(
        title="Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        authors="Heo et al.",
        year=2019,
        venue="AAAI",
        arxiv="1811.03233",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="field-code",
)
class AB(Method):
    needs = frozenset({"preactivations"})

    def __init__(self, weight: float = 1.0, margin: float = 1.0, init_share: float = 30 / 240) -> None:
        super().__init__()
        self.weight, self.margin, self.init_share = weight, margin, init_share

    def build(self, student: Network, teacher: Network) -> None:
        shapes = zip(student.shapes.preactivations, teacher.shapes.preactivations, strict=False)
        self.connectors = nn.ModuleList(nn.Identity() if s == t else Hint(s, t, relu=False) for s, t in shapes)

    def phases(self) -> tuple[Phase, ...]:
        return init_phases(self.epochs, self.init_share)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        if self.phase != "init":
            return {"ce": F.cross_entropy(student.logits, batch.targets)}
        ours = [connector(x) for connector, x in zip(self.connectors, student.preactivations, strict=False)]
        costs = [self.boundary(*pair) for pair in stage_pairs(ours, teacher.preactivations)]
        weighted = [cost * 2.0 ** (i - len(costs) + 1) for i, cost in enumerate(costs)]
        return {"boundary": self.weight * 3 / (1000 * len(batch)) * torch.stack(weighted).sum()}

    def boundary(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Sum over all neurons that are not on the teacher's side of zero by the margin."""
        ours, theirs, m = wide(student), wide(teacher), self.margin
        below = (ours + m).pow(2) * ((ours > -m) & (theirs <= 0))
        above = (ours - m).pow(2) * ((ours <= m) & (theirs > 0))
        return (below + above).sum()

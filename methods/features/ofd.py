"""A Comprehensive Overhaul of Feature Distillation (Heo, Kim, Yun, Park, Kwak, Choi, ICCV 2019).

Maps are matched before their ReLU; the teacher's negative values count only as "negative enough".

    L = CE(z_s, y) + weight / B sum_i 2^(i - n) sum d(BN(conv1x1(F_s^i)), max(F_t^i, m^i))
    d(s, t) = 0 where s <= t <= 0, else (s - t)^2;  m = each channel's expected negative response

CIFAR-100: weight 1e-3. ImageNet: 1e-3 (mobilenetv1: 1e-4).

Deviations: m is the mean of each channel's negative responses on the training set (one pass). The official code
computes it from the scale and shift of the last BatchNorm as for a normal variable, which needs a network that ends
its stages so. The teacher is in eval mode as everywhere here; the official code leaves it in train mode, so that its
running statistics drift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, Method, Network, Output, Paper, register
from kdbench.connectors import norm, pointwise, pool_to, stage_pairs
from kdbench.losses import wide


def partial_l2(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Sum of the partial squared distance of maps `[B, C, H, W]` before their ReLU; margins `[C]` are negative."""
    ours, theirs = wide(student), wide(teacher)
    theirs = torch.maximum(theirs, margin.to(theirs)[:, None, None])
    return ((ours - theirs).pow(2) * ((ours > theirs) | (theirs > 0))).sum()


@register(
    "ofd",
    family="features",
    paper=Paper(
        "A Comprehensive Overhaul of Feature Distillation",
        "Heo et al.",
        2019,
        "ICCV",
        "1904.01866",
        "clovaai/overhaul-distillation",
    ),
    fidelity="official-code",
)
class OFD(Method):
    needs = frozenset({"preactivations"})

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Network, teacher: Network) -> None:
        shapes = list(zip(student.shapes.preactivations, teacher.shapes.preactivations, strict=False))
        self.connectors = nn.ModuleList(
            nn.Sequential(pointwise(s[0], t[0], 2, bias=False), norm(t[0], 2)) for s, t in shapes
        )
        for i, (_, theirs) in enumerate(shapes):
            self.register_buffer(f"margin_{i}", torch.zeros(theirs[0]))

    @torch.no_grad()
    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        sums = [[0.0, 0.0] for _ in self.connectors]
        for batch in data.batches():
            for total, before in zip(sums, teachers[0](batch.inputs).preactivations, strict=False):
                negative = wide(before).clamp(max=0)
                total[0] = total[0] + negative.sum((0, 2, 3)).double()
                total[1] = total[1] + (negative < 0).sum((0, 2, 3))
        for i, (total, count) in enumerate(sums):
            margin = getattr(self, f"margin_{i}")
            margin.copy_((total / count.clamp(min=1)).to(margin))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        maps = stage_pairs(student.preactivations, teacher.preactivations)
        costs = []
        for i, (connector, (ours, theirs)) in enumerate(zip(self.connectors, maps, strict=True)):
            cost = partial_l2(connector(pool_to(ours, theirs.shape[2:])), theirs, getattr(self, f"margin_{i}"))
            costs.append(cost * 2.0 ** (i - len(maps) + 1))
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "feature": self.weight / len(batch) * torch.stack(costs).sum(),
        }

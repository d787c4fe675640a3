"""A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning (Yim et al.,
CVPR 2017).

Before training for the task, the student learns the flow from layer to layer: the products of successive maps'
channels.

    first 30 of 240 epochs: L = weight sum_k mean (M_k(s) - M_k(t))^2,  M_k = F_k F_{k+1}^T / (H W)
    then:                   L = CE(z_s, y)

CIFAR-100: weight 50; maps are the stem's and the stages'. The larger of two successive maps is pooled to the smaller;
both networks need the same channels. ImageNet: no value known.

Deviations: RepDistiller initialises for 30 epochs before its 240; here they are part of the training, as a share, so
that all methods train equally long. Its scripts pass the weight 50, but its initialisation never multiplies by it
(`weight=1` is the code as run).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Network, NotApplicable, Output, Paper, Phase, register
from kdbench.connectors import init_phases, pool_match
from kdbench.losses import wide


def flow(output: Output) -> list[Tensor]:
    """FSP matrices `[B, C_{k+1}, C_k]` of successive maps."""
    maps = [*([] if output.stem is None else [output.stem]), *output.features]
    matrices = []
    for pair in pairwise(maps):
        bottom, top = (wide(x).flatten(2) for x in pool_match(*pair))
        with torch.autocast(top.device.type, enabled=False):  # half precision rounds small differences away
            matrices.append(top @ bottom.transpose(1, 2) / bottom.shape[2])
    return matrices


def _shapes(network: Network) -> list[tuple[int, ...]]:
    stem = network.shapes.stem
    return [*([] if stem is None else [stem]), *network.shapes.features]


@register(
    "fsp",
    family="features",
    paper=Paper(
        title="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
        authors="Yim et al.",
        year=2017,
        venue="CVPR",
        arxiv="",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="field-code",
)
class FSP(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 50.0, init_share: float = 30 / 240) -> None:
        super().__init__()
        self.weight, self.init_share = weight, init_share

    def build(self, student: Network, teacher: Network) -> None:
        sides = [[s[0] for s in _shapes(network)] for network in (student, teacher)]
        if sides[0] != sides[1]:
            raise NotApplicable(
                f"fsp needs maps of the same channels, but {student.name!r} has {sides[0]} and {teacher.name!r} has "
                f"{sides[1]}"
            )

    def phases(self) -> tuple[Phase, ...]:
        return init_phases(self.epochs, self.init_share)

    def reads(self, stages: int) -> range:
        return range(stages + 1)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        if self.phase != "init":
            return {"ce": F.cross_entropy(student.logits, batch.targets)}
        flows = zip(flow(student), flow(teacher), strict=True)
        return {"flow": self.weight * torch.stack([F.mse_loss(ours, theirs) for ours, theirs in flows]).sum()}

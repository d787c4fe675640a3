"""Like What You Like: Knowledge Distill via Neuron Selectivity Transfer (Huang, Wang, 2017).

The channels' activation patterns of student and teacher come from one distribution: their maximum mean discrepancy
under a polynomial kernel is small.

    L = CE(z_s, y) + weight sum_stages [mean k(t, t) + mean k(s, s) - 2 mean k(s, t)],  k(a, b) = (a . b)^2
    s, t = a map's channels, flattened and normalised

CIFAR-100: weight 50; the larger of two maps is pooled to the smaller. ImageNet: no value known.

Deviations: none from RepDistiller.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register
from kdbench.connectors import stage_pairs
from kdbench.losses import wide


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two maps' channels, mean over the batch."""
    ours, theirs = (F.normalize(wide(x).flatten(2), dim=2) for x in (student, teacher))  # [B, C, H * W]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(1, 2)).pow(2).mean()

    with torch.autocast(ours.device.type, enabled=False):  # half precision rounds small differences away
        return kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs)


@register(
    "nst",
    family="features",
    paper=Paper(
        title="Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
        authors="Huang & Wang",
        year=2017,
        venue="",
        arxiv="1707.01219",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="field-code",
)
class NST(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 50.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        distances = [discrepancy(*pair) for pair in stage_pairs(student.features, teacher.features)]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "selectivity": self.weight * torch.stack(distances).sum(),
        }

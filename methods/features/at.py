"""Paying More Attention to Attention (Zagoruyko, Komodakis, ICLR 2017).

At each stage the student looks where the teacher looks: the maps of mean squared activation agree after normalisation.

    L = CE(z_s, y) + weight * sum_stages mean((A_s - A_t)^2),  A = l2norm(flatten(mean_c |F|^p))

CIFAR-100 and ImageNet: weight 1000, p 2, all stages; the larger map is average-pooled to the smaller.

Deviations: none. As in RepDistiller's code, which has the authors' formula, stages are matched from the shallowest on
where their numbers differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register
from kdbench.connectors import pool_match
from kdbench.losses import attention_map


@register(
    "at",
    family="features",
    paper=Paper(
        title="Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via "
        "Attention Transfer",
        authors="Zagoruyko & Komodakis",
        year=2017,
        venue="ICLR",
        arxiv="1612.03928",
        code="szagoruyko/attention-transfer",
    ),
    fidelity="official-code",
)
class AT(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 1000.0, power: float = 2.0) -> None:
        super().__init__()
        self.weight, self.power = weight, power

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        pairs = zip(student.features, teacher.features, strict=False)
        maps = [[attention_map(x, self.power) for x in pool_match(*pair)] for pair in pairs]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "attention": self.weight * torch.stack([F.mse_loss(ours, theirs) for ours, theirs in maps]).sum(),
        }

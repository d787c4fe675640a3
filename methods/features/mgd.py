"""Masked Generative Distillation (Yang, Li, Shao, Shi, Yuan, Yuan, ECCV 2022).

From its map with random channels masked, the student generates the teacher's whole map.

    L = CE(z_s, y) + weight sum (G(mask align(F_s)) - F_t)^2 / B,  G = conv3x3, ReLU, conv3x3

ImageNet classification (cls_KD): weight 7e-5, a channel is masked with probability 0.15, last map.

`align` is a 1x1 convolution where the channels differ, else nothing. CIFAR-100: no value known.

Deviations: a larger map is pooled to the smaller; the code wants equal sizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Method, Network, Output, Paper, Space, Uniform, register
from kdbench.connectors import pointwise, pool_match
from kdbench.losses import wide


@register(
    "mgd",
    family="features",
    paper=Paper(
        title="Masked Generative Distillation",
        authors="Yang et al.",
        year=2022,
        venue="ECCV",
        arxiv="2205.01529",
        code="yzd-v/cls_KD",
    ),
    fidelity="official-code",
)
class MGD(Method):
    needs = frozenset({"maps"})
    search_space = Space(weight=Around(), masked=Uniform(0.05, 0.65))

    def __init__(self, weight: float = 7e-5, masked: float = 0.15) -> None:
        super().__init__()
        self.weight, self.masked = weight, masked

    def build(self, student: Network, teacher: Network) -> None:
        c_in, c_out = student.shapes.features[-1][0], teacher.shapes.features[-1][0]
        self.align = pointwise(c_in, c_out, 2) if c_in != c_out else nn.Identity()
        self.generation = nn.Sequential(
            nn.Conv2d(c_out, c_out, 3, padding=1), nn.ReLU(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = pool_match(self.align(student.features[-1]), teacher.features[-1])
        kept = torch.rand(*ours.shape[:2], 1, 1, device=ours.device, dtype=ours.dtype) >= self.masked
        errors = (wide(self.generation(ours * kept)) - wide(theirs)).pow(2).sum()
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "generation": self.weight * errors / len(batch),
        }

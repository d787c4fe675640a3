"""VkD: Improving Knowledge Distillation using Orthogonal Projections (Miles, Elezi, Deng, CVPR 2024).

A free projector can learn the teacher's features in the student's stead. One with orthonormal columns keeps all
distances, so that what is to be learned must be learned by the student.

    L = CE(z_s, y) + kd_weight T^2 KL(softmax(z_t / T) || softmax(z_s / T)) + weight mean smooth_l1(P h, LN(g))
    h, g = the means over the positions of the maps that the student's and the teacher's heads take;  LN without affine
    P `[D_t, D_s]`, P^T P = I (P P^T = I where the student is wider), by torch's orthogonal parametrisation

smooth_l1(a, b) = (a - b)^2 / 2 below 1, else |a - b| - 1/2. ImageNet: weight 1, kd_weight 1, T 1. CIFAR-100: no value
known; ImageNet's are the defaults. A ViT's map are its patch tokens after the last norm.

Deviations:
- The authors' students are distilled DeiTs, whose second head learns from the teacher; networks here have one, which
  learns from both.
- Torch's parametrisation keeps signs on the diagonal of what is trained and cuts them to integers: any weight decay
  would make them, and P, zero (the authors' recipe has 0.05). Here only their signs are read, so that decay draws P
  towards its initial value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from kdbench import Batch, Method, Network, Output, Paper, register
from kdbench.connectors import global_pool
from kdbench.losses import kl, wide


class Signs(nn.Module):
    """A parametrisation that reads the diagonal of a matrix by its signs."""

    def forward(self, original: Tensor) -> Tensor:
        diagonal = torch.eye(*original.shape, dtype=torch.bool, device=original.device)
        return torch.where(diagonal, original.sign(), original)


def orthonormal(c_in: int, c_out: int) -> nn.Module:
    """A linear layer without bias, whose weight `[c_out, c_in]` has orthonormal columns, or rows if c_in is larger."""
    layer = orthogonal(nn.Linear(c_in, c_out, bias=False))
    layer.parametrizations.weight.insert(0, Signs())  # type: ignore[union-attr, operator]
    return layer


@register(
    "vkd",
    family="features",
    paper=Paper(
        title="VkD: Improving Knowledge Distillation using Orthogonal Projections",
        authors="Miles et al.",
        year=2024,
        venue="CVPR",
        arxiv="2403.06213",
        code="roymiles/vkd",
    ),
    fidelity="official-code",
)
class VKD(Method):
    needs = frozenset({"unpooled"})

    def __init__(
        self, weight: float = 1.0, kd_weight: float = 1.0, temperature: float = 1.0, ce_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.weight, self.kd_weight = weight, kd_weight
        self.temperature, self.ce_weight = temperature, ce_weight

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.unpooled[0], teacher.shapes.unpooled[0]
        self.projector = orthonormal(ours, theirs)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (global_pool(wide(output.unpooled)) for output in (student, teacher))
        with torch.autocast(ours.device.type, enabled=False):
            distance = F.smooth_l1_loss(self.projector(ours), F.layer_norm(theirs, theirs.shape[1:]))
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * kl(student.logits, teacher.logits, self.temperature),
            "feature": self.weight * distance,
        }

"""Heterogeneous Knowledge Distillation using Information Flow Modeling (Passalis, Tzelepi, Tefas, CVPR 2020).

Stage by stage the similarities within a batch agree, under two kernels: cosine and Student's t.

    L = CE(z_s, y) + weight sum_k w_k sum_kernels mean_{ij} (P_t - P_s) (log P_t - log P_s),  P = rows of the kernel
    normalised to sum to 1;  kernels (cos + 1) / 2 and 1 / (1 + |f_i - f_j|);  w_1 = 100, w_k = 1 else

CIFAR-100: weight 1, in the toolbox beside KL with weight 1 and T 4. ImageNet: no value known.

Deviations: the code of the SemCKD toolbox, which is what tables compare with.
- There the decaying weight of the later stages is computed and never used; that is kept (`first_weight`).
- The paper's auxiliary teacher, there a student of twice the width trained by pkt, is left out.
- Cosine similarities are at least 1e-7, so that they have a logarithm.
- Kernels are computed in float64, and a sample's distance from itself is 0 before the root of 0 + 1e-6: in float32 its
  rounding alone makes some per cent of the gradient, and with TF32's products several times the whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Method, Output, Paper, Space, register
from kdbench.losses import exact, wide

EPS, SMALLEST = 1e-6, 1e-7


def kernels(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and Student-t similarities of a map's samples, rows normalised: two `[B, B]`, float64."""
    flat = exact(feature.flatten(1))
    squares = flat.pow(2).sum(1)
    unit = flat / (flat.norm(dim=1, keepdim=True) + EPS)
    with torch.autocast(flat.device.type, enabled=False):  # small differences of large numbers
        cosines, products = unit @ unit.T, flat @ flat.T
    others = 1 - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)  # a sample is at distance 0 from itself
    distances = ((squares[:, None] + squares[None, :] - 2 * products).clamp(min=0) * others + EPS).sqrt()
    both = (((cosines + 1) / 2).clamp(min=SMALLEST), 1 / (1 + distances))
    return tuple(kernel / kernel.sum(1, keepdim=True) for kernel in both)  # type: ignore[return-value]


def flow_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Jeffreys divergence of two maps' similarities, a mean over pairs, summed over the kernels."""
    both = zip(kernels(student), kernels(teacher), strict=True)
    total = torch.stack([((t - s) * (t.log() - s.log())).mean() for s, t in both]).sum()
    return total.to(wide(student).dtype)


@register(
    "hkd",
    family="relations",
    paper=Paper(
        title="Heterogeneous Knowledge Distillation Using Information Flow Modeling",
        authors="Passalis et al.",
        year=2020,
        venue="CVPR",
        arxiv="2005.00727",
        code="DefangChen/SemCKD",
    ),
    fidelity="field-code",
)
class HKD(Method):
    needs = frozenset({"features"})
    search_space = Space(weight=Around())

    def __init__(self, weight: float = 1.0, first_weight: float = 100.0) -> None:
        super().__init__()
        self.weight, self.first_weight = weight, first_weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        pairs = zip(student.features, teacher.features, strict=False)
        first, *later = [flow_divergence(*pair) for pair in pairs]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "flow": self.weight * (self.first_weight * first + sum(later)),
        }

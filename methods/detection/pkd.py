"""PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient.

Cao, Zhang, Gao, Cheng, Cheng, Zhang, NeurIPS 2022.

Teacher and student may have maps of other magnitude; what counts is their pattern. Each level of the pyramid is
standardised channel by channel before it is compared.

    L = L_det + weight sum_levels mean (n(F_s) - n(F_t))^2 / 2,  n over the M places of the batch
      = L_det + weight sum_levels (1 - mean_c r_c) (M - 1) / M

Weights: 6 (mmrazor, and CrossKD's GFL), 2 (RetinaNet, FCOS), 1 (ATSS).

Deviations:
- A student's maps of another height or width are resized bilinearly; the authors' code looks at the height alone.
- Where the widths differ, a 1x1 convolution shared by the levels stands before; the paper's pyramids are equally wide.
- The deviation of a single number is 0; in the authors' code it is NaN.
As in the authors' code, padding and the other pictures of the batch take part in mean and deviation.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Paper, register
from kdbench.losses import wide
from kdbench.methods.detection.cross_kd import require_levels

EPS = 1e-6


def standardized(x: Tensor) -> Tensor:
    """A map `[B, C, h, w]` with mean 0 and (unbiased) deviation 1 of each channel."""
    correction = min(x.numel() // x.shape[1] - 1, 1)
    return (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), correction=correction, keepdim=True) + EPS)


def pearson(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (n(s) - n(t))^2 / 2 of maps `[B, C, h, w]`."""
    if student.shape[2:] != teacher.shape[2:]:
        student = F.interpolate(student, size=teacher.shape[2:], mode="bilinear")
    return F.mse_loss(standardized(student), standardized(teacher)) / 2


@register(
    "pkd",
    family="detection",
    paper=Paper(
        title="PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
        authors="Cao et al.",
        year=2022,
        venue="NeurIPS",
        arxiv="2207.02039",
        code="open-mmlab/mmrazor",
    ),
    fidelity="official-code",
)
class PKD(Method):
    needs = frozenset({"detector"})
    reads_logits = False

    def __init__(self, weight: float = 6.0) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Network, teacher: Network) -> None:
        require_levels("pkd", student, teacher)
        self.bridge = bridge(student, teacher)

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        pairs = zip(student.pyramid, teacher.pyramid, strict=True)
        total = sum(pearson(wide(self.bridge(ours)), wide(theirs)) for ours, theirs in pairs)
        return {**student.supervised(batch), "feature": self.weight * total}


def bridge(student: Any, teacher: Any) -> nn.Module:
    """A 1x1 convolution to the width of the teacher's pyramid, where it is another."""
    ours, theirs = student.head.width, teacher.head.width
    return nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)

"""Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation (Liu, Huang, Lin, Xie, Wang,
Chang, Liang, ICCV 2021): ICKD-C.

The student keeps which channels of the teacher's last map respond alike and which differ, whatever their positions.

    L = CE(z_s, y) + weight sum |G(BN(conv1x1(F_s))) - G(F_t)|^2 / C_t, mean over the batch
    G(F) = rows of F F^T normalised, F `[C_t, H W]`: the two maps may differ in size

CIFAR-100: weight 2.5, without KL or with it at weight 1 and T 4 (`ickd+kd(kd.kd_weight=1)`); the authors tuned it for
each pair and give no values. ImageNet: no value known.

Deviations:
- The authors' code; the paper does not normalise the rows and divides by C_t^2 (`normalise_rows=False`).
- A layer of that code for the teacher's map, which nothing reads, is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, NotApplicable, Output, Paper, register
from kdbench.connectors import norm
from kdbench.losses import wide


@register(
    "ickd",
    family="features",
    paper=Paper(
        title="Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
        authors="Liu et al.",
        year=2021,
        venue="ICCV",
        arxiv="2202.03680",
        code="ADLab-AutoDrive/ICKD",
    ),
    fidelity="official-code",
)
class ICKD(Method):
    needs = frozenset({"maps"})

    def __init__(
        self, weight: float = 2.5, ce_weight: float = 1.0, normalise_rows: bool = True, max_channels: int = 2048
    ) -> None:
        super().__init__()
        self.weight, self.ce_weight, self.normalise_rows = weight, ce_weight, normalise_rows
        self.max_channels = max_channels

    def build(self, student: Network, teacher: Network) -> None:
        c_in, c_out = student.shapes.features[-1][0], teacher.shapes.features[-1][0]
        if c_out > self.max_channels:
            raise NotApplicable(
                f"ickd compares each two of the {c_out} channels that {teacher.name!r} ends in, which takes "
                f"{c_out**2 / 2**18:.0f} MiB an image: raise max_channels, {self.max_channels}, if the memory is there"
            )
        self.embed = nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), norm(c_out, 2))

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (self.correlation(f) for f in (self.embed(student.features[-1]), teacher.features[-1]))
        channels = theirs.shape[1]
        distance = (ours - theirs).pow(2).sum() / (len(batch) * channels)
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "correlation": self.weight * (distance if self.normalise_rows else distance / channels),
        }

    def correlation(self, feature: Tensor) -> Tensor:
        """The Gram matrix `[B, C, C]` of a map's channels."""
        flat = wide(feature).flatten(2)
        with torch.autocast(flat.device.type, enabled=False):  # half precision rounds small differences away
            gram = flat @ flat.transpose(1, 2)
        return F.normalize(gram, dim=2) if self.normalise_rows else gram

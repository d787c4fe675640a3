"""Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation (Lv, Yang, Li, NeurIPS 2024):
WKD-F.

A map is summed up, cell by cell, by a Gaussian with a variance for each channel; the student's Gaussians come near the
teacher's by the 2-Wasserstein distance, which heeds the geometry that a KL of Gaussians would not.

    L = CE(z_s, y) + decay weight (rho L_mean + L_cov)
    L_mean = sum over channels and cells of (mean of g - mean of F_t)^2 / G^2, mean over the batch
    L_cov = the same of sqrt(unbiased variance + 1e-5);  g = ReLU(BN(conv(F_s))), of the last maps; G x G cells
    decay = 1 to epoch 150 of 240, then half a cosine down to 0

CIFAR-100: weight 0.08, rho 4, G 1 (resnet32x4 -> resnet8x4; wrn_40_2 -> shufflenetv1: 0.3, 3, 4; with WKD-L 0.08, 8, 1
and 0.5, 3, 4); other pairs' are not known. ImageNet: weight 0.02, rho 2, G 4, decay from the start, and a bottleneck of
256 channels, 1x1, 3x3 and 1x1, in place of the convolution (`projector="bottleneck"`).

Deviations: a teacher's map that is larger than the student's, but not twice, is pooled to it, as `fitnet` does.
"""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, KDBenchError, Method, Network, NotApplicable, Output, Paper, Space, register
from kdbench.connectors import Hint, bottleneck, norm, pool_match
from kdbench.losses import wide
from kdbench.methods.logits.wkd_l import late_cosine

EPS, WIDTH = 1e-5, 256


def moments(feature: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in each cell of `[B, C, H, W]`, two `[B, C, G^2]`; cells are adaptive pooling's."""
    bounds = [[(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)] for side in feature.shape[2:]]
    cells = [feature[:, :, top:end, left:right].flatten(2) for (top, end), (left, right) in product(*bounds)]
    variance, mean = zip(*(torch.var_mean(cell, dim=2) for cell in cells), strict=True)
    return torch.stack(mean, 2), (torch.stack(variance, 2) + EPS).sqrt()


@register(
    "wkd_f",
    family="features",
    paper=Paper(
        title="Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
        authors="Lv et al.",
        year=2024,
        venue="NeurIPS",
        arxiv="2412.08139",
        code="JiamingLv/WKD",
    ),
    fidelity="official-code",
)
class WKDF(Method):
    needs = frozenset({"maps"})
    search_space = Space(weight=Around(), rho=Choice(2.0, 3.0, 4.0, 8.0))

    def __init__(
        self,
        weight: float = 0.08,
        rho: float = 4.0,
        grid: int = 1,
        ce_weight: float = 1.0,
        decay_start: float = 150 / 240,
        projector: str = "convolution",
    ) -> None:
        super().__init__()
        if projector not in ("convolution", "bottleneck") or grid < 1:
            raise KDBenchError(
                f"wkd_f needs projector 'convolution' or 'bottleneck' and grid >= 1, not {projector!r} and {grid}"
            )
        self.weight, self.rho, self.grid, self.ce_weight = weight, rho, grid, ce_weight
        self.decay_start, self.projector = decay_start, projector

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.features[-1], teacher.shapes.features[-1]
        for network, (_, *space) in ((student, ours), (teacher, theirs)):
            if math.prod(-(-side // self.grid) for side in space) < 2:
                raise NotApplicable(
                    f"wkd_f takes the variance in {self.grid}x{self.grid} cells, but the last map of {network.name!r} "
                    f"is {'x'.join(map(str, space))}: give images or a grid with two positions in each cell"
                )
        if self.projector == "bottleneck":
            self.embed: nn.Module = nn.Sequential(*bottleneck(ours[0], WIDTH, theirs[0]), norm(theirs[0], 2), nn.ReLU())
        else:
            self.embed = Hint(ours, theirs)

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        mean, deviation = self.distances(*pool_match(self.embed(student.features[-1]), teacher.features[-1]))
        weight = late_cosine(self, self.decay_start) * self.weight
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "mean": weight * self.rho * mean,
            "deviation": weight * deviation,
        }

    def distances(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """L_mean and L_cov of maps `[B, C, H, W]` of one size."""
        pairs = zip(*(moments(wide(feature), self.grid) for feature in (student, teacher)), strict=True)
        mean, deviation = ((s - t).pow(2).sum(1).mean() for s, t in pairs)
        return mean, deviation

"""LD: Localization Distillation for Dense Object Detection (Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng, CVPR 2022).

Where a head gives each edge of a box as a distribution, it can be softened and imitated as a class prediction is: at
the places that are to find an object, and in the valuable region around them (VLR), which the labels leave out.

    KL_T = T^2 KL(softmax(e_t / T) || softmax(e_s / T)), mean over bins (and over classes in the last term)
    L = L_det + ld_weight sum_pos w KL_T / 4 / sum_pos w + vlr_weight sum_vlr v KL_T / 16 / sum_vlr v
        + kd_weight mean_pos KL_2

The first two sums are over the edges, w is the student's largest class score (a constant), v the place's IoU with the
object. The region is where 0.25 t <= DIoU < t, t the threshold by which ATSS finds an object's own places (algorithm
1). ld_weight and vlr_weight 0.25, T 10, kd_weight 10 with temperature 2.

Deviations:
- By `official_scale` the first two terms are not divided by their weights, which the authors left out on purpose (their
  issue 7), and the last is the sum of the levels' means; they then grow with the batch.
- kd needs two classes or more: a softmax over one class is always 1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Network, NotApplicable, Paper, Space, register
from kdbench.methods.detection.cross_kd import require_levels
from kdbench.methods.detection.pred_mimic import require_one_code

EPS = 1e-6


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits `[..., K]`, mean over K, `[...]`."""
    ours, theirs = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).mean(-1) * temperature**2


@register(
    "ld",
    family="detection",
    paper=Paper(
        title="Localization Distillation for Dense Object Detection",
        authors="Zheng et al.",
        year=2022,
        venue="CVPR",
        arxiv="2102.12252",
        code="HikariTJU/LD",
    ),
    fidelity="paper",
)
class LD(Method):
    """`temperature` is that of the edges, `kd_temperature` that of the classes."""

    needs = frozenset({"detector"})
    reads_logits = False
    search_space = Space(
        ld_weight=Around(), vlr_weight=Around(), kd_weight=Around(), temperature=Choice(2.0, 5.0, 10.0, 20.0)
    )

    def __init__(
        self,
        ld_weight: float = 0.25,
        vlr_weight: float = 0.25,
        kd_weight: float = 10.0,
        temperature: float = 10.0,
        kd_temperature: float = 2.0,
        official_scale: bool = False,
    ) -> None:
        super().__init__()
        self.ld_weight, self.vlr_weight, self.kd_weight = ld_weight, vlr_weight, kd_weight
        self.temperature, self.kd_temperature, self.official_scale = temperature, kd_temperature, official_scale

    def build(self, student: Network, teacher: Network) -> None:
        require_levels("ld", student, teacher)
        require_one_code("ld", student, teacher)
        head: Any = student.head
        if head.box_losses != "distribution":
            raise NotApplicable(
                f"ld imitates the distribution of an edge, but {student.name!r} gives one number: take a gfl head"
            )
        if self.kd_weight and head.num_classes < 2:
            raise NotApplicable(
                f"ld's kd is a softmax over classes, but the data of {student.name!r} has one, of which it is always 1:"
                " set kd_weight to 0"
            )

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        head = student.head
        matches = head.match(batch, student.boxes)
        counts = [level.shape[2] * level.shape[3] for level in student.boxes]
        rows = [
            matches.positive,
            matches.near,
            *(head.flat(each.classes, head.num_classes) for each in (student, teacher)),
        ]
        edges = [head.flat(each.boxes, head.code).unflatten(2, (4, -1)) for each in (student, teacher)]
        sums = [self.sums(*parts) for parts in zip(*(row.split(counts, 1) for row in (*rows, *edges)), strict=True)]
        terms = self.total(sums)
        weights = {"ld": self.ld_weight, "vlr": self.vlr_weight, "kd": self.kd_weight}
        return {**student.supervised(batch), **{name: weights[name] * term for name, term in terms.items()}}

    def sums(
        self, positive: Tensor, near: Tensor, z: Tensor, z_t: Tensor, edges: Tensor, edges_t: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Of one level each term's sum, unweighted, and what it may be divided by.

        Args:
            positive, near: which places are to find an object, and how near the others are to one, `[B, n]`.
            z, z_t: class logits, `[B, n, K]`.
            edges, edges_t: logits of the edges' distributions, `[B, n, 4, bins + 1]`.
        """
        sure = z.detach().sigmoid().amax(2)[positive]
        region = near > 0
        value = near[region].to(z)
        ours, theirs = edges[positive], edges_t[positive]
        main = (sure[:, None] * softened_kl(ours, theirs, self.temperature)).sum() / 4
        outer = (value[:, None] * softened_kl(edges[region], edges_t[region], self.temperature)).sum() / 16
        kd = softened_kl(z[positive], z_t[positive], self.kd_temperature).sum()
        return {"ld": (main, sure.sum()), "vlr": (outer, value.sum()), "kd": (kd, positive.sum().to(z))}

    def total(self, levels: list[dict[str, tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
        """The terms over all levels; 0 where there is no such place."""
        terms = {}
        for name in levels[0]:
            sums, weights = (torch.stack(each) for each in zip(*(level[name] for level in levels), strict=True))
            if not self.official_scale:
                terms[name] = sums.sum() / weights.sum().clamp(min=EPS)
            else:
                terms[name] = (sums / weights.clamp(min=1)).sum() if name == "kd" else sums.sum()
        return terms

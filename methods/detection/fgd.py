"""FGD: Focal and Global Knowledge Distillation for Detectors (Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan, CVPR 2022).

Focal: objects and background are imitated apart, each place and channel by the teacher's attention. Global: the maps
with their context (a GC block on each side, both trained) are to agree.

    S = h w softmax(mean_c |F| / T), C = c softmax(mean_hw |F| / T); sums over a level, divided by the pictures B
    L = L_det + sum_levels 1/B [ fg_weight sum M_fg S_t C_t (F_s - F_t)^2 + bg_weight sum M_bg S_t C_t (F_s - F_t)^2
                + attention_weight (|C_s - C_t|_1 + |S_s - S_t|_1) + global_weight |G_s(F_s) - G_t(F_t)|^2 ]

M_fg: at each place the largest 1 / ((h+1) (w+1)) of the boxes that cover it, h and w from floor to ceil of the edges in
cells, both ends included; M_bg: the rest of the picture, of sum 1. Weights (fg, bg, attention, global): RetinaNet, GFL
1e-3, 5e-4, 5e-4, 5e-6; FCOS 1.6e-3, 8e-4, 8e-4, 8e-6 with T 0.8. Sums grow with the maps; weights are meant for c 256.

Deviations:
- Rows are y and columns x; one commit of the authors' code has them the other way round.
- Boxes are scaled by the cell, over the padded batch; the authors' code scales by each picture without its padding.
- In padding M_bg counts as in the authors' code. A box at the border counts its cells outside, too, so that its weights
  sum to less than 1, as there; `cut` counts those inside alone.
- The student does not start from the teacher's neck and head, as the authors' configurations let it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Paper, register
from kdbench.losses import wide
from kdbench.methods.detection.cross_kd import require_levels


def attention(feature: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of a map `[B, C, h, w]`: over places `[B, h, w]`, of sum h w, and over channels `[B, C]`, of sum C."""
    size, channels, height, width = feature.shape
    strength = feature.abs()
    places = (strength.mean(1) / temperature).flatten(1).softmax(1) * (height * width)
    return places.reshape(size, height, width), (strength.mean((2, 3)) / temperature).softmax(1) * channels


def box_masks(
    boxes: Sequence[Tensor], space: Sequence[int], cell: tuple[float, float], like: Tensor, cut: bool = False
) -> tuple[Tensor, Tensor]:
    """Foreground and background of a level, `[B, h, w]` each.

    Args:
        boxes: of each picture `[n, 4]`, x1 y1 x2 y2 in pixels.
        space: (h, w) of the level.
        cell: height and width of a cell in pixels.
        cut: whether a box's area counts its cells inside of the map alone.
    """
    foreground = torch.zeros(len(boxes), *space, device=like.device, dtype=like.dtype)
    per = torch.tensor([cell[1], cell[0]] * 2, device=like.device, dtype=like.dtype)
    ends = torch.tensor([space[1], space[0]], device=like.device) - 1
    for picture, each in zip(foreground, boxes, strict=True):
        scaled = each.to(like) / per
        first, last = scaled[:, :2].floor().long(), scaled[:, 2:].ceil().long()
        if cut:
            first, last = first.clamp(min=0), torch.minimum(last, ends)
        value = 1 / (last + 1 - first).to(like).prod(1)
        rows, columns = (torch.arange(size, device=like.device) for size in space)
        high = (rows >= first[:, 1:]) & (rows <= last[:, 1:])  # [n, h]
        long = (columns >= first[:, :1]) & (columns <= last[:, :1])  # [n, w]
        covered = (high[:, :, None] & long[:, None]) * value[:, None, None]
        if len(each):
            picture.copy_(covered.amax(0))
    background = (foreground == 0).to(like)
    return foreground, background / background.sum((1, 2), keepdim=True).clamp(min=1)


def focal(student: Tensor, teacher: Tensor, mask: Tensor, places: Tensor, channels: Tensor) -> Tensor:
    """sum M S C (s - t)^2 / B of maps `[B, C, h, w]`, a mask `[B, h, w]` and the teacher's attention."""
    weight = (mask * places)[:, None] * channels[:, :, None, None]
    return (weight * (student - teacher) ** 2).sum() / len(student)


class Context(nn.Module):
    """A GC block (Cao et al. 2019): a map plus what a bottleneck makes of its weighted mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(width, 1, 1)
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.mask.bias)
        middle = max(width // 2, 1)
        self.add = nn.Sequential(
            nn.Conv2d(width, middle, 1), nn.LayerNorm([middle, 1, 1]), nn.ReLU(), nn.Conv2d(middle, width, 1)
        )
        nn.init.zeros_(self.add[-1].weight)
        nn.init.zeros_(self.add[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.mask(x).flatten(2).softmax(2)  # [B, 1, h w]
        mean = (x.flatten(2) * weights).sum(2)[:, :, None, None]
        return x + self.add(mean)


class Level(nn.Module):
    """What is trained for one level: the bridge to the teacher's width, and both contexts."""

    def __init__(self, ours: int, theirs: int) -> None:
        super().__init__()
        self.align: nn.Module = nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)
        self.student, self.teacher = Context(theirs), Context(theirs)


@register(
    "fgd",
    family="detection",
    paper=Paper(
        title="Focal and Global Knowledge Distillation for Detectors",
        authors="Yang et al.",
        year=2022,
        venue="CVPR",
        arxiv="2111.11837",
        code="yzd-v/FGD",
    ),
    fidelity="paper",
)
class FGD(Method):
    needs = frozenset({"detector"})
    reads_logits = False

    def __init__(
        self,
        fg_weight: float = 1e-3,
        bg_weight: float = 5e-4,
        attention_weight: float = 5e-4,
        global_weight: float = 5e-6,
        temperature: float = 0.5,
        cut: bool = False,
    ) -> None:
        super().__init__()
        self.weights = {"fg": fg_weight, "bg": bg_weight, "attention": attention_weight, "global": global_weight}
        self.temperature, self.cut = temperature, cut

    def build(self, student: Network, teacher: Network) -> None:
        require_levels("fgd", student, teacher)
        ours: Any = student.head
        theirs: Any = teacher.head
        self.levels = nn.ModuleList(Level(ours.width, theirs.width) for _ in ours.strides)

    def level(
        self, level: Any, ours: Tensor, theirs: Tensor, boxes: Sequence[Tensor], cell: tuple[float, float]
    ) -> dict[str, Tensor]:
        """The four sums of one level, unweighted."""
        ours = wide(level.align(ours))
        places, channels = attention(theirs, self.temperature)
        own_places, own_channels = attention(ours, self.temperature)
        masks = box_masks(boxes, ours.shape[2:], cell, theirs, self.cut)
        gaps = (own_channels - channels).abs().sum() + (own_places - places).abs().sum()
        context = (wide(level.student(ours)) - wide(level.teacher(theirs))) ** 2
        return {
            "fg": focal(ours, theirs, masks[0], places, channels),
            "bg": focal(ours, theirs, masks[1], places, channels),
            "attention": gaps / len(ours),
            "global": context.sum() / len(ours),
        }

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        boxes: Any = batch.boxes
        found = []
        for level, ours, theirs in zip(self.levels, student.pyramid, teacher.pyramid, strict=True):
            height, width = (batch.inputs.shape[2] / ours.shape[2], batch.inputs.shape[3] / ours.shape[3])
            found.append(self.level(level, ours, wide(theirs), boxes, (height, width)))
        sums = {name: torch.stack([each[name] for each in found]).sum() for name in self.weights}
        return {**student.supervised(batch), **{name: weight * sums[name] for name, weight in self.weights.items()}}

"""FGFI: Distilling Object Detectors with Fine-grained Feature Imitation (Wang, Yuan, Zhang, Feng, CVPR 2019).

What matters in a teacher's map lies at and around objects: where some anchor fits an object at least half as well as
the anchor that fits it best. The student imitates these places through an adapter.

    L = L_det + weight sum_levels,places I (F_t - a(F_s))^2 / (2 sum I),  a = 3x3 convolution and ReLU
    I = 1 where an anchor of the place has IoU > share * (largest IoU of that object), for some object

weight 0.01, share 0.5.

Deviations:
- The paper has one map; here the largest IoU is that over all levels, and all share the adapter.
- Anchors are the field's for pyramids, three sizes (4, 5.0, 6.3 strides) in three shapes (1:2, 1:1, 2:1) at each place,
  whatever the student's head has.
- The authors skip the first steps; here imitation begins with the training.
- A batch without objects gives 0; in the authors' code it is 0 / 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, Method, Network, Paper, Space, register
from kdbench.losses import wide
from kdbench.methods.detection.cross_kd import require_levels


def places_of_objects(anchors: Sequence[Tensor], boxes: Tensor, share: float = 0.5) -> list[Tensor]:
    """Where an anchor fits some object more than `share` times as well as that object's best anchor does.

    Args:
        anchors: of each level `[places, A, 4]`, x1 y1 x2 y2.
        boxes: of one picture, `[n, 4]`.

    Returns:
        of each level `[places]`, bool.
    """
    from torchvision.ops import box_iou  # not at the top: whoever only looks at results does without torchvision

    if not len(boxes):
        return [torch.zeros(len(level), dtype=torch.bool, device=level.device) for level in anchors]
    fits = [box_iou(level.flatten(0, 1), boxes).unflatten(0, level.shape[:2]) for level in anchors]
    best = torch.stack([level.amax((0, 1)) for level in fits]).amax(0)
    return [(level > share * best).any(2).any(1) for level in fits]


def masked_imitation(student: Sequence[Tensor], teacher: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """sum I (t - s)^2 / (2 sum I) over all levels, maps `[B, C, h, w]`, masks `[B, 1, h, w]`; 0 without a place."""
    triples = list(zip(student, teacher, masks, strict=True))
    gaps = torch.stack([(mask * (theirs - ours) ** 2).sum() for ours, theirs, mask in triples]).sum()
    return gaps / (2 * torch.stack([mask.sum() for mask in masks]).sum().clamp(min=1))


@register(
    "fgfi",
    family="detection",
    paper=Paper(
        title="Distilling Object Detectors with Fine-grained Feature Imitation",
        authors="Wang et al.",
        year=2019,
        venue="CVPR",
        arxiv="1906.03609",
        code="twangnh/Distilling-Object-Detectors",
    ),
    fidelity="official-code",
)
class FGFI(Method):
    needs = frozenset({"detector"})
    reads_logits = False
    search_space = Space(weight=Around(), share=Choice(0.3, 0.5, 0.7))

    def __init__(self, weight: float = 0.01, share: float = 0.5) -> None:
        super().__init__()
        self.weight, self.share = weight, share

    def build(self, student: Network, teacher: Network) -> None:
        require_levels("fgfi", student, teacher)
        ours: Any = student.head
        self.strides = ours.strides
        self.adapter = nn.Sequential(nn.Conv2d(ours.width, teacher.head.width, 3, padding=1), nn.ReLU())

    @torch.no_grad()
    def masks(self, boxes: Sequence[Tensor], maps: Sequence[Tensor]) -> list[Tensor]:
        """Of each level `[B, 1, h, w]`, 1 or 0."""
        sizes = tuple(tuple(int(4 * stride * 2 ** (third / 3)) for third in range(3)) for stride in self.strides)
        from torchvision.models.detection.anchor_utils import AnchorGenerator

        generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        generator.set_cell_anchors(torch.float32, maps[0].device)
        grids: Any = [list(level.shape[2:]) for level in maps], [[stride, stride] for stride in self.strides]
        anchors = [level.reshape(-1, 9, 4) for level in generator.grid_anchors(*grids)]
        found = [places_of_objects(anchors, each.float(), self.share) for each in boxes]
        levels = [torch.stack(level) for level in zip(*found, strict=True)]
        return [rows.reshape(-1, 1, *level.shape[2:]).to(level) for rows, level in zip(levels, maps, strict=True)]

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        theirs = [wide(level) for level in teacher.pyramid]
        ours = [wide(self.adapter(level)) for level in student.pyramid]
        term = masked_imitation(ours, theirs, self.masks(batch.boxes, theirs))
        return {**student.supervised(batch), "feature": self.weight * term}

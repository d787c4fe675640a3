"""GFL: Generalized Focal Loss, boxes as distributions (Li et al., NeurIPS 2020), with ATSS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.ops import box_iou, generalized_box_iou_loss

from kdbench.tasks.detection.networks.atss import matched
from kdbench.tasks.detection.networks.heads import Head, Matches, norm
from kdbench.tasks.detection.output import DetectionBatch, DetectionOutput

OCTAVE = 8  # strides that a cell's square anchor is wide
BOX, DISTRIBUTION, BETA = 2.0, 0.25, 2.0  # weights of GIoU and DFL, exponent of QFL


class GFLForm(Head):
    """An edge's distance from the cell's point is the mean of a distribution over 0..`bins` strides.

    L = QFL(z, IoU) / n + 2 sum w (1 - GIoU) / sum w + 0.25 sum w DFL / 4 / sum w, w the largest class score of a
    matched place (a constant), n their number.
    """

    form = "gfl"
    box_losses = "distribution"

    def __init__(self, width: int, num_classes: int, depth: int, strides: Sequence[int], bins: int = 16) -> None:
        super().__init__()
        self.width, self.num_classes, self.depth, self.strides = width, num_classes, depth, tuple(strides)
        self.bins, self.code = bins, 4 * (bins + 1)
        self.anchors_of = AnchorGenerator(tuple((OCTAVE * stride,) for stride in strides), ((1.0,),) * len(strides))
        self.classification = FCOSClassificationHead(width, 1, num_classes, depth, norm_layer=norm)
        self.regression = FCOSRegressionHead(width, 1, depth, norm_layer=norm)
        self.regression.bbox_reg = nn.Conv2d(width, self.code, 3, padding=1)
        nn.init.normal_(self.regression.bbox_reg.weight, std=0.01)
        nn.init.zeros_(self.regression.bbox_reg.bias)  # type: ignore[arg-type]
        del self.regression.bbox_ctrness
        self.scales = nn.Parameter(torch.ones(len(strides)))

    def tower(self, branch: str) -> list[nn.Module]:
        layers = self.classification if branch == "classes" else self.regression
        return [layers.conv[3 * place : 3 * place + 2] for place in range(self.depth)]

    def predict(self, branch: str, hidden: Tensor, level: int) -> tuple[Tensor, ...]:
        if branch == "classes":
            return (self.classification.cls_logits(hidden),)
        return (self.regression.bbox_reg(hidden) * self.scales[level],)

    def distances(self, coded: Tensor) -> Tensor:
        """Left, top, right, bottom in strides, `[..., 4]`, of distributions `[..., 4 * (bins + 1)]` as logits."""
        steps = torch.arange(self.bins + 1, device=coded.device, dtype=coded.dtype)
        return coded.unflatten(-1, (4, self.bins + 1)).softmax(-1) @ steps

    def decode(self, coded: Tensor, anchors: Tensor) -> Tensor:
        anchors = anchors.to(coded)
        centres = (anchors[..., :2] + anchors[..., 2:]) / 2
        stride = (anchors[..., 2:3] - anchors[..., :1]) / OCTAVE
        before, after = (self.distances(coded) * stride).split(2, -1)
        return torch.cat([centres - before, centres + after], -1)

    @torch.no_grad()
    def match(self, batch: DetectionBatch, maps: Sequence[Tensor]) -> Matches:
        anchors = self.anchors(maps)
        pairs = [matched(anchors, boxes.to(anchors[0])) for boxes in batch.boxes]
        objects, near = zip(*pairs, strict=True)
        return Matches(torch.stack(objects), torch.stack(near))

    def normalizer(self, batch: DetectionBatch, maps: Sequence[Tensor], matches: Matches) -> Tensor:
        """The number of matched places, at least one."""
        return matches.positive.sum().clamp(min=1).to(maps[0])

    def losses(self, output: DetectionOutput, batch: DetectionBatch) -> dict[str, Tensor]:
        matches = self.match(batch, output.boxes)
        chosen = matches.positive
        z, coded = self.flat(output.classes, self.num_classes), self.flat(output.boxes, self.code)
        anchors = torch.cat(self.anchors(output.boxes)).expand(*chosen.shape, 4)[chosen]
        found, right = self.decode(coded[chosen], anchors), _objects(batch, matches.objects, z)
        weight = z.detach().sigmoid().amax(2)[chosen]
        total = weight.sum().clamp(min=1e-6)

        quality = torch.zeros_like(z)
        labels = torch.cat([labels[row[row >= 0]] for labels, row in zip(batch.labels, matches.objects, strict=True)])
        overlap = box_iou(found.detach(), right).diagonal().clamp(min=0) if len(found) else right.new_zeros(0)
        quality[(*chosen.nonzero(as_tuple=True), labels)] = overlap
        gap = (quality - z.sigmoid()).abs() ** BETA
        cls = (F.binary_cross_entropy_with_logits(z, quality, reduction="none") * gap).sum()

        box = generalized_box_iou_loss(found, right, reduction="none")
        wanted = _distances(right, anchors).clamp(0, self.bins - 0.1)
        edges = coded[chosen].unflatten(-1, (4, self.bins + 1)).flatten(0, 1)
        spread = _between(edges, wanted.flatten()).reshape(-1, 4).sum(1) / 4
        return {
            "cls": cls / self.normalizer(batch, output.boxes, matches),
            "box": BOX * (weight * box).sum() / total,
            "dfl": DISTRIBUTION * (weight * spread).sum() / total,
        }


def _objects(batch: DetectionBatch, objects: Tensor, like: Tensor) -> Tensor:
    """The box of each matched place, `[P, 4]`."""
    return torch.cat([boxes.to(like)[row[row >= 0]] for boxes, row in zip(batch.boxes, objects, strict=True)])


def _distances(boxes: Tensor, anchors: Tensor) -> Tensor:
    """How far a box's edges are from its place's point, in strides, `[P, 4]`."""
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    stride = (anchors[:, 2:3] - anchors[:, :1]) / OCTAVE
    return torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], 1) / stride


def _between(logits: Tensor, value: Tensor) -> Tensor:
    """DFL: cross-entropy with the two whole numbers around a value, by its nearness to each, `[P]`."""
    low = value.long()
    near = value - low
    cross = [F.cross_entropy(logits, bin, reduction="none") for bin in (low, low + 1)]
    return cross[0] * (1 - near) + cross[1] * near

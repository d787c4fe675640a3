"""RetinaNet: Focal Loss for Dense Object Detection (Lin et al., ICCV 2017), by torchvision's layers and losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from kdbench.errors import KDBenchError
from kdbench.tasks.detection.networks.heads import Head, Matches, as_targets, norm
from kdbench.tasks.detection.output import DetectionBatch, DetectionOutput

DEPTH = 4  # of torchvision's towers
SMALLEST = 4  # strides that the smallest of a cell's squares is wide


class RetinaNetForm(Head):
    """A cell has nine anchors, of three sizes and three shapes; a box is coded as its shift and growth.

    Deviations: torchvision's version (v2): GroupNorm in the towers, L1 loss of the code, losses averaged over pictures.
    """

    form = "retinanet"
    box_losses = "giou"

    def __init__(self, width: int, num_classes: int, depth: int, strides: Sequence[int]) -> None:
        super().__init__()
        if depth != DEPTH:
            raise KDBenchError(
                f"torchvision's RetinaNet has {DEPTH} convolutions in a tower, not {depth}: leave it out"
            )
        self.width, self.num_classes, self.depth, self.strides = width, num_classes, depth, tuple(strides)
        sizes = tuple(tuple(int(SMALLEST * stride * 2 ** (third / 3)) for third in range(3)) for stride in strides)
        self.anchors_of = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
        self.layers = RetinaNetHead(width, self.places, num_classes, norm_layer=norm)
        self.matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)

    def tower(self, branch: str) -> list[nn.Module]:
        layers = self.layers.classification_head if branch == "classes" else self.layers.regression_head
        # without a ReLU that writes over what is held
        return [nn.Sequential(*list(block)[:-1]) for block in layers.conv]

    def predict(self, branch: str, hidden: Tensor, level: int) -> tuple[Tensor, ...]:
        if branch == "classes":
            return (self.layers.classification_head.cls_logits(hidden),)
        return (self.layers.regression_head.bbox_reg(hidden),)

    def decode(self, coded: Tensor, anchors: Tensor) -> Tensor:
        flat = self.layers.regression_head.box_coder.decode_single(
            coded.reshape(-1, 4), anchors.expand_as(coded).reshape(-1, 4)
        )
        return flat.reshape(coded.shape)

    @torch.no_grad()
    def match(self, batch: DetectionBatch, maps: Sequence[Tensor]) -> Matches:
        anchors = torch.cat(self.anchors(maps))
        nothing = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        found = [self.matcher(box_iou(boxes.to(anchors), anchors)) if len(boxes) else nothing for boxes in batch.boxes]
        return Matches(torch.stack(found))

    def normalizer(self, batch: DetectionBatch, maps: Sequence[Tensor], matches: Matches) -> Tensor:
        """The number of matched places, at least one a picture."""
        return matches.positive.sum(1).clamp(min=1).sum().to(maps[0])

    def losses(self, output: DetectionOutput, batch: DetectionBatch) -> dict[str, Tensor]:
        anchors = torch.cat(self.anchors(output.boxes))
        said = {
            "cls_logits": self.flat(output.classes, self.num_classes),
            "bbox_regression": self.flat(output.boxes, 4),
        }
        objects = list(self.match(batch, output.boxes).objects)
        found = self.layers.compute_loss(as_targets(batch, anchors), said, [anchors] * len(objects), objects)
        return {"cls": found["classification"], "box": found["bbox_regression"]}

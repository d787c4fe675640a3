"""FCOS: Fully Convolutional One-Stage Object Detection (Tian et al., ICCV 2019), by torchvision's layers and losses."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from kdbench.tasks.detection.networks.heads import Head, Matches, as_targets, norm
from kdbench.tasks.detection.output import DetectionBatch, DetectionOutput

RADIUS = 1.5  # of centre sampling, in strides


class FCOSForm(Head):
    """A box is its four distances from the cell's point, in strides: relu of the last layer.

    Deviations: torchvision's version: centre sampling, GIoU loss, centerness beside the boxes, no scale of a level's
    own.
    """

    form = "fcos"
    box_losses = "iou"
    masks_padding = False

    def __init__(self, width: int, num_classes: int, depth: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.width, self.num_classes, self.depth, self.strides = width, num_classes, depth, tuple(strides)
        self.anchors_of = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        self.layers = FCOSHead(32, 1, 1, 1)  # its own towers know one norm only, of 32 groups
        self.layers.classification_head = FCOSClassificationHead(width, 1, num_classes, depth, norm_layer=norm)
        self.layers.regression_head = FCOSRegressionHead(width, 1, depth, norm_layer=norm)

    def tower(self, branch: str) -> list[nn.Module]:
        layers = self.layers.classification_head if branch == "classes" else self.layers.regression_head
        return [layers.conv[3 * place : 3 * place + 2] for place in range(self.depth)]

    def predict(self, branch: str, hidden: Tensor, level: int) -> tuple[Tensor, ...]:
        if branch == "classes":
            return (self.layers.classification_head.cls_logits(hidden),)
        layers = self.layers.regression_head
        return layers.bbox_reg(hidden).relu(), layers.bbox_ctrness(hidden)

    def decode(self, coded: Tensor, anchors: Tensor) -> Tensor:
        return self.layers.box_coder.decode(coded, anchors)

    @torch.no_grad()
    def match(self, batch: DetectionBatch, maps: Sequence[Tensor]) -> Matches:
        anchors = self.anchors(maps)
        together = torch.cat(anchors)
        found: list[Tensor] = []

        def keep(targets: Any, outputs: Any, anchors: Any, matched: list[Tensor]) -> dict[str, Tensor]:
            found.extend(matched)
            return {}

        # torchvision matches inside of its loss, and reads of its detector only these two
        detector = SimpleNamespace(center_sampling_radius=RADIUS, head=SimpleNamespace(compute_loss=keep))
        count = len(batch.boxes)
        FCOS.compute_loss(
            cast(FCOS, detector), as_targets(batch, together), {}, [together] * count, [len(level) for level in anchors]
        )
        return Matches(torch.stack(found))

    @torch.no_grad()
    def normalizer(self, batch: DetectionBatch, maps: Sequence[Tensor], matches: Matches) -> Tensor:
        """The sum of the centerness that the matched places should have."""
        anchors = torch.cat(self.anchors(maps))
        total = anchors.new_zeros(())
        for boxes, objects in zip(batch.boxes, matches.objects, strict=True):
            chosen = objects >= 0
            left, top, right, bottom = self.layers.box_coder.encode(
                anchors[chosen], boxes.to(anchors)[objects[chosen]]
            ).unbind(1)
            ratios = torch.stack([torch.minimum(a, b) / torch.maximum(a, b) for a, b in ((left, right), (top, bottom))])
            total = total + ratios.clamp(min=0).prod(0).sqrt().sum()
        return total

    def losses(self, output: DetectionOutput, batch: DetectionBatch) -> dict[str, Tensor]:
        maps = output.boxes
        anchors = torch.cat(self.anchors(maps))
        said = {
            "cls_logits": self.flat(output.classes, self.num_classes),
            "bbox_regression": self.flat(maps, 4),
            "bbox_ctrness": self.flat(output.centerness, 1),
        }
        objects = list(self.match(batch, maps).objects)
        found = self.layers.compute_loss(as_targets(batch, anchors), said, [anchors] * len(objects), objects)
        return {
            "cls": found["classification"],
            "box": found["bbox_regression"],
            "centerness": found["bbox_ctrness"],
        }

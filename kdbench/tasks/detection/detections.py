"""From a detector's answer to the boxes that it reports."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

SURE = 0.05  # a score from which on a box is reported, as in the literature
APART = 0.6  # the IoU from which on the less sure of two boxes of a class is suppressed
CAP = 100  # boxes of a picture


@torch.no_grad()
def detections(answer: Tensor, sizes: Tensor, scale: Tensor, cap: int = CAP) -> list[dict[str, Tensor]]:
    """The boxes of each picture, the surest first, on the CPU.

    Args:
        answer: `[B, M, 6]`: x1 y1 x2 y2 in pixels of the input, score, class (`DetectionOutput.answer`).
        sizes: height and width of each picture inside its input, `[B, 2]`.
        scale: by what each picture was resized, `[B]`.

    Returns:
        `boxes [m, 4]` in the picture's own pixels, `scores [m]` and `labels [m]`.
    """
    found = []
    for rows, size, factor in zip(answer.float().cpu(), sizes.tolist(), scale.tolist(), strict=True):
        rows = rows[rows[:, 4] > SURE]
        boxes = clip_boxes_to_image(rows[:, :4], (size[0], size[1]))
        rows, boxes = (each[(boxes[:, 2:] > boxes[:, :2]).all(1)] for each in (rows, boxes))
        kept = batched_nms(boxes, rows[:, 4], rows[:, 5].long(), APART)[:cap]
        found.append({"boxes": boxes[kept] / factor, "scores": rows[kept, 4], "labels": rows[kept, 5].long()})
    return found

"""ATSS: which anchors are to find an object (Zhang et al., CVPR 2020, algorithm 1), and the valuable region around it
(LD: Zheng et al., CVPR 2022, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou, distance_box_iou

NEAREST = 9  # anchors of a level that an object may choose from
VALUABLE = 0.25  # of ATSS's threshold: LD's gamma
WITHIN = 0.01  # px that an anchor's centre must lie inside of its object


def matched(levels: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Match the anchors of each level, `[n, 4]`, to the objects of one picture, `[m, 4]`.

    An object's candidates are the nearest anchors of each level by their centres. Those whose IoU is at least the mean
    plus the standard deviation of all candidates' are its own; where several objects claim one, the largest IoU wins.

    Returns:
        the object's number or -1, `[N]`; and LD's valuable region, `[N]`: the largest IoU with an object whose DIoU
        with the anchor is at least `VALUABLE` of that object's threshold and below it, 0 elsewhere. Any anchor may be
        in it, wherever its centre lies.
    """
    anchors = torch.cat(list(levels))
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device), anchors.new_zeros(
            len(anchors)
        )
    overlaps = box_iou(anchors, boxes)  # [N, m]
    centres, middles = ((each[:, :2] + each[:, 2:]) / 2 for each in (anchors, boxes))
    distances = torch.cdist(centres, middles)
    candidate, start = torch.zeros_like(overlaps, dtype=torch.bool), 0
    for level in levels:
        nearest = distances[start : start + len(level)].topk(min(NEAREST, len(level)), dim=0, largest=False).indices
        candidate.scatter_(0, nearest + start, True)
        start += len(level)
    chosen = overlaps.T[candidate.T].reshape(len(boxes), -1)
    spread = chosen.std(1) if chosen.shape[1] > 1 else chosen.new_zeros(len(chosen))
    threshold = chosen.mean(1) + spread  # [m]
    enough = overlaps >= threshold
    edges = torch.cat([centres[:, None] - boxes[:, :2], boxes[:, 2:] - centres[:, None]], 2)  # [N, m, 4]
    inside = candidate & (edges.amin(2) > WITHIN)
    best, objects = overlaps.masked_fill(~(inside & enough), -1).max(1)
    distant = distance_box_iou(anchors, boxes)
    near = overlaps.masked_fill(~((distant >= VALUABLE * threshold) & (distant < threshold)), 0).amax(1)
    return objects.masked_fill(best < 0, -1), near

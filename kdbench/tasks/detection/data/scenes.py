"""Scenes of real things: Fashion-MNIST's items (Xiao et al., 2017) at random places, sizes and overlaps, seeded.

A scene has one to three items, each 20 to 56 px wide, on black, 96x96 px. An item's box is the extent of its pixels
that are not black; it may lie behind others. Training scenes have training items, test scenes test items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from kdbench.errors import KDBenchError, unknown
from kdbench.seeding import generator
from kdbench.suites.networks import split as named
from kdbench.tasks.detection.data import coco
from kdbench.tasks.detection.data.sets import DetectionData, Stored
from kdbench.tasks.image.data import fashion_mnist
from kdbench.tasks.image.data.sets import channel_statistics

NAME = "fashion_scenes"
OPTIONS = {"train": 1500, "test": 300}  # how many scenes
SIDE = 96  # px
SMALLEST, LARGEST, MOST = 20, 56, 3  # px and items
COVERED = 0.4  # the largest IoU of two items; another place is tried, TRIES times, and then it is left out
TRIES = 10


def load(name: str, root: Path, size: int, download: bool) -> DetectionData:
    """`fashion_scenes`, or with options `fashion_scenes(test=30, train=100)`.

    Raises:
        KDBenchError: for another option, another size than 96, or absent items.
    """
    _, options = named(name)
    for key, value in options.items():
        if key not in OPTIONS:
            raise unknown(f"option of dataset {NAME!r}", key, OPTIONS)
        if type(value) is not int or value < 2:
            raise KDBenchError(f"dataset {name!r} has {key}={value!r}: give a whole number of scenes, at least 2")
    if size != SIDE:
        raise KDBenchError(f"dataset {NAME!r} has scenes of {SIDE} px, and image_size is {size}: leave it out")
    items = fashion_mnist.load(root, image_size=28, download=download)
    counts = {**OPTIONS, **options}
    categories = {title: number for number, title in enumerate(items.classes, 1)}
    splits, first = [], items.train_images[:0]
    for part, images, targets in (
        ("train", items.train_images, items.train_targets), ("test", items.test_images, items.test_targets)
    ):  # fmt: skip
        pictures, table = scenes(images, targets, items.classes, counts[part], part)
        first = first if len(first) else pictures
        splits.append(coco.split(table, categories, name, Stored(pictures)))
    mean, std = channel_statistics(first)
    return DetectionData(name, splits[0], splits[1], tuple(categories), tuple(categories.values()), mean, std, SIDE)


def scenes(
    items: Tensor, targets: Tensor, classes: tuple[str, ...], count: int, part: str
) -> tuple[Tensor, dict[str, Any]]:
    """The scenes of one part, `[count, 1, 96, 96]`, uint8, and their objects as COCO has them.

    Each scene has random numbers of its own: the first hundred of a thousand are those of a hundred.
    """
    pictures = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.uint8)
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures):
        draws = generator(NAME, part, number)
        placed = torch.zeros(0, 4)
        for _ in range(int(torch.randint(1, MOST + 1, (), generator=draws))):
            index = int(torch.randint(len(items), (), generator=draws))
            side = int(torch.randint(SMALLEST, LARGEST + 1, (), generator=draws))
            item = _resized(items[index], side)
            rows, columns = (item.amax(axis).nonzero().flatten() for axis in (1, 0))
            if not len(rows):
                continue
            extent = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
            for _ in range(TRIES):
                left, top = torch.randint(SIDE - side + 1, (2,), generator=draws).tolist()
                box = torch.tensor([[extent[0] + left, extent[1] + top, extent[2] + left, extent[3] + top]]).float()
                if not len(placed) or box_iou(box, placed).max() <= COVERED:
                    break
            else:
                continue
            area = picture[0, top : top + side, left : left + side]
            area.copy_(torch.maximum(area, item))
            placed = torch.cat([placed, box])
            x0, y0, x1, y1 = box[0].tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": int(targets[index]) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0,
            })  # fmt: skip
    images = [{"id": k, "width": SIDE, "height": SIDE, "file_name": f"{k:06d}.png"} for k in range(count)]
    categories = [{"id": number, "name": title} for number, title in enumerate(classes, 1)]
    return pictures, {"images": images, "annotations": annotations, "categories": categories}


def _resized(item: Tensor, side: int) -> Tensor:
    """`[1, 28, 28]` to `[side, side]`, uint8."""
    grown = F.interpolate(item[None].float(), size=(side, side), mode="bilinear", antialias=True)
    return grown[0, 0].round().clamp(0, 255).to(torch.uint8)

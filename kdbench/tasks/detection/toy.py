"""What methods of detection are tried on: random pictures with bright boxes, and small detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kdbench.hardware.numerics import Numerics
from kdbench.seeding import generator
from kdbench.suites.grid import Recipe
from kdbench.tasks.detection.data.sets import DetectionData, Split, Stored
from kdbench.tasks.detection.task import DetectionTask

TEACHER = "gfl_test_resnet(bins=8, levels=3, width=16)"
STUDENT = "gfl_test_resnet(bins=8, levels=3, width=8)"
METHODS = ("cross_kd", "fgd", "fgfi", "ld", "pkd", "pred_mimic", "student")
PAIRS: Mapping[str, Mapping[str, Any]] = {
    "FCOS of one width": dict.fromkeys(("teacher", "student"), "fcos_test_resnet(levels=3, width=8)"),
    "RetinaNet over two backbones": {
        "teacher": "retinanet_test_resnet(levels=3, width=8)",
        "student": "retinanet_test_efficientnet(levels=3, width=8)",
    },
    "GFL to FCOS": {"teacher": TEACHER, "student": "fcos_test_resnet(levels=3, width=8)"},
}
# no decay: what moves had a gradient; AdamW, since a head's small first weights give one too small for SGD
RECIPE = Recipe(epochs=4, batch_size=16, optimizer="adamw", learning_rate=2e-3, weight_decay=0.0, clip_grad=5.0)
SIZE, CLASSES = 64, 3


class ToyTask(DetectionTask):
    """Random pictures for the loop."""

    def __init__(self, numerics: Numerics, samples: int = 21, batch_size: int = 16) -> None:
        half = (0.5,)
        names = tuple("abc"[:CLASSES])
        data = DetectionData("toy", boxes("train", samples), boxes("test", samples), names, (1, 2, 4), half, half, SIZE)
        self.hold(data, batch_size, ("flip",), numerics)


def toy(numerics: Numerics, samples: int = 21, batch_size: int = 16) -> ToyTask:
    """The task; the last picture of a set shows nothing."""
    return ToyTask(numerics, samples, batch_size)


def boxes(part: str, count: int) -> Split:
    """Noise with up to two brighter rectangles, whose brightness tells the class."""
    draws = generator("toy boxes", part)
    pictures = torch.randint(60, (count, 1, SIZE, SIZE), generator=draws, dtype=torch.uint8)
    places, labels = [], []
    for number, picture in enumerate(pictures):
        objects = int(torch.randint(1, 3, (), generator=draws)) if number + 1 < count else 0
        rows = []
        for place in range(objects):
            side = int(torch.randint(12, 30, (), generator=draws))
            left = int(torch.randint(SIZE // 2 - side // 2, (), generator=draws)) + place * (SIZE - side) // 2
            top = int(torch.randint(SIZE - side, (), generator=draws))
            right = min(left + side, SIZE)
            rows.append([left, top, right, top + side])
        label = torch.randint(CLASSES, (objects,), generator=draws)
        for (x0, y0, x1, y1), value in zip(rows, label.tolist(), strict=True):
            picture[0, y0:y1, x0:x1] += 60 * (value + 1)
        places.append(torch.tensor(rows, dtype=torch.float64).reshape(-1, 4))
        labels.append(label)
    areas = tuple((each[:, 2:] - each[:, :2]).prod(1) for each in places)
    crowds = tuple(torch.zeros(len(each), dtype=torch.bool) for each in labels)
    sizes = torch.full((count, 2), SIZE, dtype=torch.int64)
    return Split(Stored(pictures), tuple(range(count)), sizes, tuple(places), tuple(labels), areas, crowds)

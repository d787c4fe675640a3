"""Small detectors and batches for tests: what a method of detection sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdbench import registry
from kdbench.tasks.detection.networks import Detector, create
from kdbench.tasks.detection.output import DetectionBatch, DetectionOutput

CLASSES, SIZE = 3, 64
BOXES = (((4.0, 6.0, 40.0, 30.0), (30.0, 28.0, 62.0, 60.0)), ((10.0, 10.0, 20.0, 24.0),))


def detector(form: str = "fcos", seed: int = 0, classes: int = CLASSES, **options: Any) -> Detector:
    """Over timm's smallest ResNet, with levels of 8x8, 4x4 and 2x2 cells."""
    options = {"width": 8, "levels": 3, **options}
    torch.manual_seed(seed)
    made = create(f"{form}_test_resnet", num_classes=classes, size=(1, SIZE, SIZE), **options)
    for layer in (m for m in made.head.modules() if isinstance(m, torch.nn.Conv2d)):
        torch.nn.init.normal_(layer.weight, std=0.2)  # an untrained head says next to nothing
    return made


def batch(
    boxes: Sequence[Sequence[Sequence[float]]] = BOXES, sizes: Sequence[Sequence[int]] | None = None
) -> DetectionBatch:
    """Random pictures with these objects, of classes 0, 1, ... in each."""
    count = len(boxes)
    places = tuple(torch.tensor(each).reshape(-1, 4) for each in boxes)
    labels = tuple(torch.arange(len(each)) % CLASSES for each in boxes)
    draws = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 1, SIZE, SIZE, generator=draws)
    extent = torch.tensor(sizes if sizes is not None else [[SIZE, SIZE]] * count)
    return DetectionBatch(inputs, torch.cat(labels), torch.arange(count), boxes=places, labels=labels, sizes=extent)


def twice(given: DetectionBatch) -> DetectionBatch:
    """The same pictures again behind the others."""
    return DetectionBatch(
        given.inputs.repeat(2, 1, 1, 1), given.targets.repeat(2), torch.arange(2 * len(given)),
        boxes=given.boxes * 2, labels=given.labels * 2, sizes=given.sizes.repeat(2, 1),
    )  # fmt: skip


def method(name: str, student: Any, teacher: Any, **hyperparameters: Any) -> Any:
    made = registry.create(name, hyperparameters)
    torch.manual_seed(2)
    made.bind([student], [teacher])
    return made.train()


def run(made: Any, student: Detector, teacher: Detector, given: DetectionBatch) -> dict[str, Tensor]:
    """A method's terms on a batch."""
    with torch.no_grad():
        theirs: DetectionOutput = teacher.eval()(given.inputs)
    return made.compute(given, [student(given.inputs)], [theirs])


def imitation(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms that come from the teacher."""
    return {name: term for name, term in terms.items() if not name.startswith("labels.")}

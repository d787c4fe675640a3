"""What an epoch costs beside its steps: augmenting the images, scoring the test set, keeping a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.cohorts import workshop
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.timing import peak_of
from benchmarks.paced import CIFAR
from kdbench.hardware.clock import seconds
from kdbench.method import Batch
from kdbench.suites.grid import MethodSpec
from kdbench.tasks import TrainingSet

KEPT = ("kd", "crd")  # a small checkpoint, and one with memory banks


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "images", partial(images, sheet, False)
    yield "images, strong view", partial(images, sheet, True)
    yield "epoch's end", partial(ends, sheet)


PART = Part("epochs", "an epoch beside its steps", steps)


def images(sheet: Sheet, strong: bool) -> list[Row]:
    """An epoch of 64 a batch, cropped, flipped and normalised, so many batches at a time: seconds, memory, and whether
    the images are those that are made batch by batch.
    """
    recipe, rows, device = dataclasses.replace(CIFAR, batch_size=sheet.scale.batch), list[Row](), sheet.numerics.device
    first = None
    with workshop(sheet) as shop:
        for count in sheet.scale.augmented:
            together = (count * sheet.scale.batch or sheet.scale.train_samples) * 3 * 32 * 32
            numerics = dataclasses.replace(sheet.numerics, augmented_together=together)
            data = shop.task("cifar100", recipe, numerics).training_set(0, strong)
            made = sums(data.epoch(0))
            first = made if first is None else first
            with peak_of(device) as peak:
                spent = seconds(partial(exhaust, data, 1), device)
            rows.append(
                {
                    "what": f"images{', and their strong view' if strong else ''}",
                    "batches together": count or "all",
                    "ms": 1e3 * spent,
                    "a second": sheet.scale.train_samples / spent,
                    "peak_mb": peak.mb,
                    "equal": made == first,
                }
            )
    return rows


def exhaust(data: TrainingSet, epoch: int) -> None:
    """Make all batches and keep none."""
    for _ in data.epoch(epoch):
        pass


def sums(batches: Iterable[Batch]) -> list[int]:
    """Of the bits of each batch's images, which are exact whatever the order."""
    views = ([view for view in (batch.inputs, batch.strong) if view is not None] for batch in batches)
    return torch.stack([weighted(view) for both in views for view in both]).tolist()


def weighted(images: Tensor) -> Tensor:
    """A sum that tells the places of its numbers."""
    bits = images.contiguous().flatten().view(torch.int32).long()
    return (bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum()


def ends(sheet: Sheet) -> list[Row]:
    """Of the pair on which methods are looked at."""
    rows, device = [], sheet.numerics.device
    plain = dataclasses.replace(sheet.numerics, compile=False, verdicts=())
    with workshop(sheet) as shop:
        for name in KEPT:
            options = {"negatives": 4} if name == "crd" and sheet.scale.methods else {}
            made = shop.cohort([MethodSpec(name, options)], sheet.scale.teacher, sheet.scale.student, plain)
            made.timed = False
            (learner,) = made.learners
            made.steps(1)
            if name == KEPT[0]:
                made.task.evaluate(learner.deployed())
                spent = seconds(lambda: made.task.evaluate(learner.deployed()), device)  # noqa: B023
                rows.append({"what": "scoring the test set", "ms": 1e3 * spent, "a second": None})
            spent = seconds(lambda: made.store.save_checkpoint(learner.cell.id, learner.state_dict()), device)  # noqa: B023
            rows.append({"what": f"a checkpoint of {name}", "ms": 1e3 * spent, "a second": None})
    return rows

"""What an epoch costs beside its steps: augmenting the images, scoring the test set, keeping a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from benchmarks.gpu.cohorts import workshop
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.paced import CIFAR
from kdbench.hardware.clock import seconds
from kdbench.suites.grid import MethodSpec

KEPT = ("kd", "crd")  # a small checkpoint, and one with memory banks


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "images", partial(images, sheet)
    yield "epoch's end", partial(ends, sheet)


PART = Part("epochs", "an epoch beside its steps", steps)


def images(sheet: Sheet) -> list[Row]:
    """An epoch of 64 a batch, cropped, flipped and normalised, with and without the strong view."""
    recipe, rows = dataclasses.replace(CIFAR, batch_size=sheet.scale.batch), []
    with workshop(sheet) as shop:
        task = shop.task("cifar100", recipe, sheet.numerics)
        for strong in (False, True):
            data = task.training_set(0, strong)
            exhaust(data.epoch(0))
            spent = seconds(lambda: exhaust(data.epoch(1)), sheet.numerics.device)  # noqa: B023
            what = f"images{', and their strong view' if strong else ''}"
            rows.append({"what": what, "ms": 1e3 * spent, "a second": sheet.scale.train_samples / spent})
    return rows


def exhaust(batches: Iterable[object]) -> None:
    """Make all batches and keep none."""
    for _ in batches:
        pass


def ends(sheet: Sheet) -> list[Row]:
    """Of the pair on which methods are looked at."""
    rows, device = [], sheet.numerics.device
    plain = dataclasses.replace(sheet.numerics, compile=False, verdicts=())
    with workshop(sheet) as shop:
        for name in KEPT:
            options = {"negatives": 4} if name == "crd" and sheet.scale.methods else {}
            made = shop.cohort([MethodSpec(name, options)], sheet.scale.teacher, sheet.scale.student, plain)
            (learner,) = made.learners
            made.steps(1)
            if name == KEPT[0]:
                made.task.evaluate(learner.deployed())
                spent = seconds(lambda: made.task.evaluate(learner.deployed()), device)  # noqa: B023
                rows.append({"what": "scoring the test set", "ms": 1e3 * spent, "a second": None})
            spent = seconds(lambda: made.store.save_checkpoint(learner.cell.id, learner.state_dict()), device)  # noqa: B023
            rows.append({"what": f"a checkpoint of {name}", "ms": 1e3 * spent, "a second": None})
    return rows

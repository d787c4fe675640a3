"""kdbench's own loop on CIFAR-100's size: what a batch costs a cohort of six, and one of all methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.cifar import write_cifar100
from benchmarks.gpu import bench
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.timing import busy
from benchmarks.paced import Workshop
from benchmarks.setting import FULL, TOY
from kdbench.hardware.clock import seconds

STEPS = 10


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "six", partial(cohort, sheet, sheet.scale.cohort)
    yield "all", partial(cohort, sheet, bench.methods(sheet.scale))


PART = Part("cohorts", "a batch of a whole cohort, as `kdbench run` trains it", steps)


@contextmanager
def workshop(sheet: Sheet) -> Iterator[Workshop]:
    """With generated files of CIFAR-100's format and size."""
    scale, assistants = sheet.scale, (TOY if sheet.scale.methods else FULL).assistants
    with TemporaryDirectory(dir=sheet.work) as folder, pytest.MonkeyPatch.context() as patch:
        data = Path(folder) / "data"
        write_cifar100(data, scale.train_samples, scale.test_samples, patch)
        yield Workshop(Path(folder), data, scale.batch, assistants, epochs=40)


def cohort(sheet: Sheet, names: tuple[str, ...]) -> list[Row]:
    device = sheet.numerics.device
    plain = dataclasses.replace(sheet.numerics, compile=False, verdicts=())
    count = min(STEPS, sheet.scale.train_samples // sheet.scale.batch)
    with workshop(sheet) as shop:
        made = shop.cohort(names, sheet.scale.teacher, sheet.scale.student, plain)
        made.steps(1)
        made.own_seconds()
        spent = seconds(partial(made.steps, count), device) / count
        own = sum(made.own_seconds().values()) / count
        shares = busy(partial(made.steps, 1), device, 1e3 * spent)
    learners = len(made.learners)
    return [
        {
            "learners": learners,
            "ms a batch": 1e3 * spent,
            "learner-steps/s": learners / spent,
            "own ms a learner": 1e3 * own / learners,
            **shares,
        }
    ]

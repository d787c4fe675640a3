"""The pair on which methods are looked at: kdbench's own trial bench, at the scale's size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu.scale import Scale
from kdbench import registry
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Output, both_views
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner


def bench(folder: Path, scale: Scale, numerics: Numerics, epochs: int = 0, samples: int = 0) -> Bench:
    return Bench(
        folder, scale.teacher, scale.student, numerics=numerics, image_size=scale.image_size,
        samples=samples or scale.samples, batch_size=scale.batch_size, epochs=epochs or scale.epochs,
    )  # fmt: skip


def methods(scale: Scale) -> tuple[str, ...]:
    return scale.methods or tuple(registry.names("image"))


def shown(learner: Learner) -> tuple[Batch, list[Output]]:
    """The learner's first batch, and what its teachers say of it."""
    batch = next(iter(learner.data.epoch(learner.epoch)))
    strong = batch.strong if learner.wants_strong_view else None
    teachers = learner.teachers if learner.method.uses_teacher else ()
    with torch.no_grad(), learner.numerics.autocast():
        return batch, [both_views(teacher, batch.inputs, strong) for teacher in teachers]


def step_of(learner: Learner) -> Callable[[], None]:
    """One update of the learner, over and over on one batch."""
    batch, outputs = shown(learner)
    return lambda: learner.train_step(0, batch, outputs)

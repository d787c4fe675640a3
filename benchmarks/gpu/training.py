"""Learners of `kd` that take kdbench's own steps on one batch, over and over: as they are, or as graphs on streams."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.bench import shown
from benchmarks.gpu.scale import Scale
from benchmarks.paced import CIFAR, synchronize
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.testing.trial import Bench, RandomTask
from kdbench.training.learner import Learner
from kdbench.training.steps import steps_of

WARM = 5  # steps, after the third of which a graph is captured
NO_GRAPHS = "there are no CUDA graphs here"


def has_graphs(numerics: Numerics) -> bool:
    return numerics.device.type == "cuda" and not torch.version.hip


def graphed(numerics: Numerics, streams: int) -> Numerics:
    """Numerics with graphs on so many streams, where there are any; 0 for steps as they are."""
    return dataclasses.replace(numerics, graphs=streams if has_graphs(numerics) else 0)


class Training:
    """Learners of one student side by side; each has a temperature of its own, so that their bits differ.

    Args:
        network: the student's.
        count: how many learners there are.
    """

    def __init__(self, folder: Path, scale: Scale, network: str, numerics: Numerics, count: int = 1) -> None:
        numerics.apply()
        self._numerics, batch = numerics, scale.batch
        bench = Bench(
            folder, scale.teacher, network, num_classes=100, numerics=numerics, image_size=32, samples=batch,
            batch_size=batch,
        )  # fmt: skip
        recipe = dataclasses.replace(CIFAR, batch_size=batch)
        cells = [bench.cell("kd", temperature=4.0 + place / 100) for place in range(count)]
        self.learners: list[Learner] = [bench.learner(dataclasses.replace(cell, recipe=recipe)) for cell in cells]
        for learner in self.learners:
            learner.peak_memory_mb = 0.0  # is not measured
            learner.begin_epoch()
        self._batch, outputs = shown(self.learners[0])
        self._outputs = dict(enumerate(outputs))
        self._steps, self._numbers = steps_of(numerics), itertools.count(1)
        for _ in range(WARM):
            self.step()
        synchronize(numerics.device)

    def step(self) -> None:
        """One update of each learner, as a cohort has it after an epoch's first batch."""
        number = next(self._numbers)
        batch, outputs = self._steps.lend(self._batch, self._outputs)
        for learner in self.learners:
            self._steps.take(learner, number, batch, list(outputs.values()))
        self._steps.join()

    @property
    def how(self) -> str:
        """How the steps run, in words."""
        if not self._numerics.graphs:
            return "as they are" if has_graphs(self._numerics) else f"as they are: {NO_GRAPHS}"
        return next((f"as they are: {each.uncaptured}" for each in self.learners if each.uncaptured), "as graphs")


def task_of(numerics: Numerics, batch: int) -> RandomTask:
    return RandomTask(numerics, num_classes=100, image_size=32, samples=batch, batch_size=batch)


def forward(network: Network, numerics: Numerics, inputs: Tensor) -> Callable[[], object]:
    """A frozen network's pass."""

    @torch.no_grad()
    def run() -> None:
        with numerics.autocast():
            network(inputs)

    return run

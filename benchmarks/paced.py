"""kdbench's own loop, so many steps at a time: what is timed is the code that `kdbench run` runs."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdbench.hardware.clock import Clock
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.records import Store
from kdbench.suites.grid import Cell, DatasetSpec, MethodSpec, Pair, Recipe, TeacherSpec
from kdbench.tasks import Task
from kdbench.tasks.image.task import ImageTask
from kdbench.testing.trial import RandomTeachers
from kdbench.training.cohort import Cohort
from kdbench.training.learner import Learner
from kdbench.training.precision import numerics_of

# as in the suites
CIFAR = Recipe(epochs=240, batch_size=64, augment=("pad_crop:4", "flip"))
DIGITS = Recipe(epochs=6, batch_size=64)


class _Leave(BaseException):
    """Ends the loop after the last step that is wanted, or before the first: no learner's guard catches it."""


@dataclass
class _Pace:
    """The listener that ends the loop."""

    steps: int = 0

    def cohort_started(self, cells: Sequence[Cell]) -> None: ...

    def step_done(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if step == self.steps:
            raise _Leave

    def epoch_done(self, cell: Cell, epoch: int, scores: dict[str, Any]) -> None: ...

    def cell_ended(self, cell: Cell, status: str, reason: str, scores: dict[str, Any]) -> None: ...

    def cohort_split(self, sizes: Sequence[int], reason: str) -> None:
        raise AssertionError(reason)  # a part's time is not what was asked for

    def notice(self, sentence: str) -> None:
        raise AssertionError(sentence)  # there is no earlier run to go on from


@dataclass
class _Marks(_Pace):
    """Notes when an epoch's first step was done."""

    device: torch.device | None = None
    begin: float = 0.0

    def step_done(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if step == 1:
            assert self.device is not None
            synchronize(self.device)
            self.begin = time.perf_counter()
        super().step_done(epoch, epochs, step, steps)


class Paced(Cohort):
    """A cohort whose teachers and learners are built by its own `run`, and which then trains step by step.

    Evaluation and checkpoints come at an epoch's end, which is never reached: they are not timed.

    Attributes:
        learners: those that can be trained on this pair.
        epoch: which epoch they train in.
    """

    learners: list[Learner]
    epoch = 0

    def build(self, last_epoch: bool = False) -> Paced:
        """Build everything that is needed to train.

        Args:
            last_epoch: train in the recipe's last epoch, where all phases and ramps have ended.
        """
        self.learners = []
        with suppress(_Leave):
            self.run()
        if last_epoch:
            self.go_to(self.cells[0].recipe.epochs - 1)
        return self

    def go_to(self, epoch: int) -> None:
        """Train in this epoch from now on."""
        self.epoch = epoch
        for learner in self.learners:
            learner.epoch = epoch

    def _train_epoch(self, epoch: int, learners: list[Learner]) -> None:
        self.learners = learners
        raise _Leave

    def steps(self, count: int) -> None:
        """Train so many steps from the epoch's start, every teacher and learner."""
        assert isinstance(self.listener, _Pace)
        assert count <= self.data.steps_per_epoch
        self.listener.steps = count
        self.numerics.apply()  # those of another cohort may be in force
        with suppress(_Leave):
            super()._train_epoch(self.epoch, self.learners)
        synchronize(self.numerics.device)
        failed = [str(learner.cell.method.label) for learner in self.learners if self.store.has(learner.cell.id)]
        assert not failed, f"these learners failed: {failed}"

    def seconds(self, count: int) -> float:
        """Seconds of a step, the mean of `count` that follow an epoch's first.

        Before that one a GPU makes the images of many batches ready, and after it the first batch is looked at.
        """
        marks = _Marks(device=self.numerics.device)
        before, self.listener = self.listener, marks
        try:
            self.steps(1 + count)
        finally:
            self.listener = before
        return (time.perf_counter() - marks.begin) / count

    def step_of_one(self) -> Callable[[], None]:
        """One update of the only learner, on its first batch and with the teachers' outputs at hand."""
        (learner,) = self.learners
        learner.begin_epoch()
        batch = next(self._batches(self.epoch, learner.wants_strong_view))
        shown = self._run_teachers(batch, self.learners, {spec: Clock(self.numerics.device) for spec in self.loaded})
        outputs = [shown[spec] for spec in self._teachers_of(learner)]
        numbers = itertools.count()

        def step() -> None:
            learner.train_step(next(numbers), batch, outputs)
            synchronize(self.numerics.device)

        return step

    def own_seconds(self) -> dict[str, float]:
        """By label, the learner's own time since the last call: without the batch and without the teachers' passes."""
        return {learner.cell.method.label: learner.clock.read() for learner in self.learners}


def timed(step: Callable[[], object], seconds: list[float]) -> Callable[[], None]:
    """A step that also notes how long it took, to run before each round: a drift of the machine's speed meets both."""

    def run() -> None:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)

    return run


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given: a time that is read before says nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cells(
    dataset: str, recipe: Recipe, teacher: str, student: str, methods: Sequence[MethodSpec], assistants: tuple[str, ...]
) -> list[Cell]:
    """One seed's cells of one pair; the pool holds two trainings of the teacher."""
    pool = (TeacherSpec(teacher), TeacherSpec(teacher, seed=1))
    pair = Pair(pool[0], student, pool, assistants)
    return [Cell("bench", DatasetSpec(dataset), pair, spec, 0, recipe, (recipe, recipe)) for spec in methods]


@dataclass
class Workshop:
    """Builds paced cohorts: where the data is, where they may write, and what their recipe is."""

    folder: Path
    data: Path
    batch_size: int
    assistants: tuple[str, ...]
    epochs: int

    def cohort(
        self, methods: Sequence[MethodSpec | str], teacher: str, student: str, numerics: Numerics | None = None,
        dataset: str = "cifar100", last_epoch: bool = False,
    ) -> Paced:  # fmt: skip
        """Methods of one pair in one cohort, with random teachers; those that do not apply to the pair are left out.

        Args:
            numerics: None for those that `kdbench run` chooses.
        """
        recipe = DIGITS if dataset == "digits" else dataclasses.replace(CIFAR, epochs=self.epochs)
        recipe = dataclasses.replace(recipe, batch_size=self.batch_size)
        specs = [MethodSpec(method) if isinstance(method, str) else method for method in methods]
        grid = cells(dataset, recipe, teacher, student, specs, self.assistants)
        numerics = numerics or numerics_of(grid[0])
        task = self.task(dataset, recipe, numerics)
        teachers, store = RandomTeachers(self.folder / "teachers"), Store(self.folder / "results")
        for old in store.all():
            store.forget(old["id"])  # what another cohort left behind would count as done
        return Paced(grid, task, teachers, store, numerics, _Pace()).build(last_epoch)

    def task(self, dataset: str, recipe: Recipe, numerics: Numerics) -> Task:
        return ImageTask(DatasetSpec(dataset), recipe, numerics, self.data, download=False)

    def networks(self, teacher: str, student: str) -> tuple[Network, Network]:
        """A pair for CIFAR-100 as plain modules: fp32, channels-first."""
        plain = Numerics(torch.device("cpu"), channels_last=False)
        task = self.task("cifar100", CIFAR, plain)
        return task.network(teacher).requires_grad_(False).eval(), task.network(student)

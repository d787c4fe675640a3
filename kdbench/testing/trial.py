"""Small random data and small networks on which a method is tried in the real training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import KDBenchError, explained_absence
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Network
from kdbench.records import Record, Store
from kdbench.registry.applies import check_task
from kdbench.seeding import derive_seed, seed_all
from kdbench.suites.grid import Cell, DatasetSpec, MethodSpec, Pair, Recipe, TeacherSpec, cohorts
from kdbench.tasks import Task
from kdbench.tasks.classification import ClassificationTask
from kdbench.tasks.image.metrics import METRICS
from kdbench.tasks.image.networks import create
from kdbench.training.cohort import Cohort
from kdbench.training.guard import Shared, Spoiled
from kdbench.training.learner import Learner
from kdbench.training.teachers import Teachers

FP32 = Numerics(torch.device("cpu"))
# no decay: what moves had a gradient; clipped, since a paper's weight may be too much for an untrained teacher
RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.02, weight_decay=0.0, clip_grad=5.0)


class RandomImages:
    """A training set of random images: the loader's interface without a loader."""

    def __init__(self, task: RandomTask, seed: int, strong_view: bool) -> None:
        self.num_classes, self.seed, self.strong_view = task.num_classes, seed, strong_view
        self.samples, self.batch_size = task.samples, task.batch_size
        generator = torch.Generator().manual_seed(derive_seed("random images", self.num_classes))
        self.device = task.numerics.device
        self.images = torch.randn(self.samples, *task.input_size, generator=generator).to(self.device)
        self.targets = (torch.arange(self.samples) % self.num_classes).to(self.device)
        self.steps_per_epoch = -(-self.samples // self.batch_size)

    def __len__(self) -> int:
        return self.samples

    def _batch(self, indices: Tensor) -> Batch:
        indices = indices.to(self.device)
        images = self.images[indices]
        return Batch(images, self.targets[indices], indices, images.flip(3) if self.strong_view else None)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return map(self._batch, torch.randperm(self.samples, generator=generator).split(self.batch_size))

    def batches(self) -> Iterator[Batch]:
        return map(self._batch, torch.arange(self.samples).split(self.batch_size))


@dataclass
class RandomTask(ClassificationTask):
    """Random images for the loop; by default the last batch of 21 samples holds 5."""

    numerics: Numerics
    num_classes: int = 10
    image_size: int = 16
    samples: int = 21
    batch_size: int = 16

    def __post_init__(self) -> None:
        self.metrics, self.test_batch_size = METRICS, self.batch_size
        self.test = self.training_set(seed=0, strong_view=False)

    @property
    def input_size(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    def training_set(self, seed: int, strong_view: bool) -> RandomImages:
        return RandomImages(self, seed, strong_view)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        network = create(name, num_classes=self.num_classes, in_chans=3, input_size=self.input_size, **options)
        self.numerics.place(network)
        return network

    @cached_property
    def targets(self) -> Tensor:
        return self.test.targets

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch.inputs, batch.targets) for batch in self.test.batches())

    def example(self) -> Tensor:
        return torch.zeros(1, *self.input_size)


class RandomTeachers(Teachers):
    """Teachers with random weights, one a seed."""

    def load(self, cell: Cell, teacher: TeacherSpec, task: Task) -> Network:
        seed_all("teacher", teacher.network, teacher.seed)
        return task.network(teacher.network).requires_grad_(False).eval()


class _Stop(BaseException):
    """Ends a run between two epochs, as a kill would."""


@dataclass
class _Silent:
    """A listener that says nothing, and may end the run after some epochs."""

    stop_after: int = 0

    def cohort_started(self, cells: Sequence[Cell]) -> None: ...

    def step_done(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if self.stop_after and epoch == self.stop_after:
            raise _Stop

    def epoch_done(self, cell: Cell, epoch: int, scores: dict[str, Any]) -> None: ...

    def cell_ended(self, cell: Cell, status: str, reason: str, scores: dict[str, Any]) -> None: ...

    def cohort_split(self, sizes: Sequence[int], reason: str) -> None: ...

    def notice(self, sentence: str) -> None: ...


def toy_of(kind: str) -> Any:
    """The module with what a task is tried on: `toy(numerics, samples, batch_size) -> Task` of random data, the names
    `TEACHER` and `STUDENT` of small networks, a `RECIPE`, and further `PAIRS` by title.

    Raises:
        KDBenchError: if there is no such task, or an extra with its libraries is not installed.
    """
    check_task(kind)
    try:
        return import_module(f"kdbench.tasks.{kind}.toy")
    except ModuleNotFoundError as error:
        raise KDBenchError(explained_absence(f"task {kind!r}", error)) from error


@dataclass
class Bench:
    """One pair on which methods are tried, in a folder of its own.

    Attributes:
        kind: the task. Those but images bring data, networks and a recipe in kdbench/tasks/<task>/toy.py; what is said
            of images here does not hold for them.
        weights: the first student's final weights, by results folder and cell id, of the cells that were run.
    """

    folder: Path
    teacher: str = "cifar_resnet14"
    student: str = "cifar_resnet8"
    kind: str = "image"
    num_classes: int = 10
    numerics: Numerics = FP32
    image_size: int = 16
    epochs: int = RECIPE.epochs
    samples: int = 21
    batch_size: int = RECIPE.batch_size
    assistants: tuple[str, ...] = ("cifar_resnet8", "cifar_resnet8")
    timed: bool = False  # so few steps would be half of the work
    weights: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict, init=False)
    _variants: dict[str, Bench] = field(default_factory=dict, init=False)
    _watchful: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.recipe = RECIPE
        self.task = self._task()  # which may have a recipe of its own
        self.teachers = RandomTeachers(self.folder / "teachers")

    def _task(self) -> Task:
        if self.kind == "image":
            return RandomTask(self.numerics, self.num_classes, self.image_size, self.samples, self.batch_size)
        toy = toy_of(self.kind)
        self.recipe = toy.RECIPE
        task: Task = toy.toy(self.numerics, self.samples, self.batch_size)
        return task

    @classmethod
    def of(cls, kind: str, folder: Path, numerics: Numerics = FP32) -> Bench:
        """The plain pair of a task."""
        if kind == "image":
            return cls(folder, numerics=numerics)
        toy = toy_of(kind)
        return cls(folder, toy.TEACHER, toy.STUDENT, kind, numerics=numerics, assistants=())

    def variant(self, name: str, **changes: Any) -> Bench:
        """The same with other fields, in a folder of its own; one name is always the same bench."""
        if name not in self._variants:
            self._variants[name] = dataclasses.replace(self, folder=self.folder / name, **changes)
        return self._variants[name]

    def cell(self, method: str, **hyperparameters: Any) -> Cell:
        pool = (TeacherSpec(self.teacher), TeacherSpec(self.teacher, seed=1))
        pair = Pair(pool[0], self.student, pool, self.assistants)
        recipe = dataclasses.replace(self.recipe, epochs=self.epochs, batch_size=self.batch_size)
        spec = MethodSpec(method, hyperparameters)
        return Cell("check", DatasetSpec("random", self.kind), pair, spec, 0, recipe, (self.recipe, self.recipe))

    def run(self, cells: Sequence[Cell], stop_after: int = 0, name: str = "results") -> list[Record]:
        """Train the cells that have no record yet, those of a cohort side by side, and give all records.

        Args:
            stop_after: leave the run after so many epochs and then start it again.
            name: the results folder.
        """
        store = Store(self.folder / name)

        def keep(learner: Learner) -> None:
            weights = learner.students[0].state_dict()
            self.weights[name, learner.cell.id] = {key: tensor.clone() for key, tensor in weights.items()}

        for listener in (_Silent(stop_after), _Silent()):
            todo = [cell for cell in cells if not store.has(cell.id)]
            try:
                for cohort in cohorts(todo):
                    left = list(cohort)
                    while left:
                        left = self._train(left, store, listener, keep)
            except _Stop:
                continue
        return [store.read(cell.id) for cell in cells]

    def _train(self, cells: list[Cell], store: Store, listener: _Silent, keep: Callable[[Learner], None]) -> list[Cell]:
        shared = Shared(self._watchful)
        try:
            cohort = Cohort(cells, self.task, self.teachers, store, self.numerics, listener, keep, shared=shared)
            return dataclasses.replace(cohort, timed=self.timed, every=0.0).run()
        except Spoiled as error:
            self._watchful = not error.known
            self.__post_init__()
            return [cell for cell in cells if not store.has(cell.id)]

    def learner(self, cell: Cell) -> Learner:
        """The cell's learner at its start."""
        teachers = [self.teachers.load(cell, spec, self.task) for spec in cell.teachers]
        data = self.task.training_set(0, True)
        if (corpus := cell.corpus) and (sources := self.task.sources()):
            written = self.task.write(corpus, teachers[0], cell.seed, 0, sources)
            data, _ = self.task.corpus_set(corpus, written, 0)
        return Learner(cell, self.task, data, self.numerics, teachers)

"""Tasks: what differs between images, text, translation and detection, behind one interface.

The loop asks a task for batches, networks and an evaluation, and knows nothing else about the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor

from kdbench.errors import unknown
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Dataset, Network
from kdbench.suites.grid import DatasetSpec, Recipe


class TrainingSet(Dataset, Protocol):
    """A `Dataset` that can also be gone through in shuffled, augmented epochs."""

    steps_per_epoch: int

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """One epoch's batches, decided by the loader's seed and the epoch's number alone."""
        ...


class Task(ABC):
    """One data set under one recipe, on one device."""

    num_classes: int
    content: str = ""  # digest of the data as it is trained and scored on, for the record

    @abstractmethod
    def training_set(self, seed: int, strong_view: bool) -> TrainingSet:
        """The training data; asking for the strong view does not change the first view."""

    @abstractmethod
    def network(self, name: str, pretrained: bool = False, **options: object) -> Network:
        """Build a network for this data, placed on the device; random weights come from torch's global stream.

        Raises:
            KDBenchError: if there is no such network or it cannot take this data.
        """

    @abstractmethod
    def logits(self, model: Callable[..., object]) -> Tensor:
        """The logits of a network or deployed module on the whole test set, `[N, K]`, float32; sets it to eval mode."""

    @abstractmethod
    def metrics(self, logits: Tensor, teacher_logits: Tensor | None) -> dict[str, float | None]:
        """Scores of test-set logits; the first key is the primary one (`top1`)."""

    def reliability(self, logits: Tensor) -> dict[str, list[float]] | None:
        """Confidence against accuracy on the test set, by bins of confidence; None where a task has no such thing."""
        return None

    @abstractmethod
    def group(self, members: list[Tensor]) -> dict[str, float]:
        """Scores of several students that trained together, from each one's test-set logits."""

    @abstractmethod
    def example(self) -> Tensor:
        """One input, `[1, ...]`, for counting parameters and multiplications."""


TaskFactory = Callable[[DatasetSpec, Recipe, Numerics, Path | None, bool], Task]


def _image(dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool) -> Task:
    from kdbench.tasks.image.task import ImageTask

    return ImageTask(dataset, recipe, numerics, root, download)


_TASKS: dict[str, TaskFactory] = {"image": _image}


def register_task(name: str, factory: TaskFactory) -> None:
    """Make `task = "name"` of a suite's data set mean this factory."""
    _TASKS[name] = factory


def create(dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool = True) -> Task:
    """Load the data set and make its task.

    Args:
        download: whether a set that is absent may be fetched, where its library does so.

    Raises:
        KDBenchError: for an unknown task or data set, or data that is absent.
    """
    if dataset.task not in _TASKS:
        raise unknown("task", dataset.task, _TASKS)
    return _TASKS[dataset.task](dataset, recipe, numerics, root, download)


__all__ = ["Task", "TrainingSet", "create", "register_task"]

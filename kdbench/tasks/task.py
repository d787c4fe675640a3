"""What a task supplies, and how one is made of a suite's data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError, explained_absence, unknown
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Dataset, Network
from kdbench.suites.corpus import Corpus
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks.metrics import Metrics


class TrainingSet(Dataset, Protocol):
    """A `Dataset` that can also be gone through in shuffled, augmented epochs."""

    steps_per_epoch: int

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """One epoch's batches, decided by the loader's seed and the epoch's number alone."""
        ...


class Task(ABC):
    """One data set under one recipe, on one device.

    What `evaluate` gives is the task's own business (logits, decoded sentences, boxes): the engine hands it on to
    `scores`, `keeps` and `group` and never looks into it.

    Attributes:
        metrics: the table of its scores, from which records and tables take their columns.
        content: digest of the data as it is trained and scored on, for the record; empty where a task has none.
    """

    metrics: Metrics
    content: str = ""

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
    def evaluate(self, model: nn.Module) -> Any:
        """The predictions of a network or deployed module on the whole test set; sets it to eval mode."""

    @abstractmethod
    def scores(self, predictions: Any, teacher: Any = None) -> Mapping[str, float | None]:
        """A value for each name of `metrics.scores`, from predictions and, where given, the teacher's; without, those
        that compare with a teacher are None.
        """

    def keeps(self, predictions: Any) -> Mapping[str, Any]:
        """What a record's `result` keeps of the last predictions beside the scores: plain values only."""
        return {}

    def group(self, members: Sequence[Any]) -> Mapping[str, float]:
        """A value for names of `metrics.extra`: scores of several students that trained together, from each one's
        predictions.
        """
        return {}

    def sources(self) -> int:
        """How many of the training set's inputs a teacher can write an answer to; 0 where answers are not sequences."""
        return 0

    def write(self, corpus: Corpus, teacher: Network, seed: int, start: int, stop: int) -> list[Any]:
        """What a teacher writes to the sources `start` to `stop`: a plain value for each.

        A source's answer depends on neither the others nor on where the parts begin, but for rounding.

        Args:
            seed: of what the rule draws at random.
        """
        raise NotImplementedError

    def corpus_set(self, corpus: Corpus, written: Sequence[Any], seed: int) -> tuple[TrainingSet, Mapping[str, Any]]:
        """The training set of what a teacher wrote, and its sizes for a record."""
        raise NotImplementedError

    def about_corpus(self, written: Sequence[Any]) -> Mapping[str, Any]:
        """What the corpus is like, for its record: sizes, duplicates, diversity."""
        raise NotImplementedError

    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """What a network or deployed module says about inputs that a user gives, in lines to be read.

        Args:
            given: paths of pictures, or sentences.

        Raises:
            KDBenchError: if one is no such input, or the task answers no single inputs.
        """
        raise KDBenchError("this task answers no single inputs: use its networks from Python")

    @abstractmethod
    def example(self) -> Tensor:
        """One input, `[1, ...]`, for counting parameters and multiplications."""

    def blank_targets(self, samples: int) -> Tensor:
        """Targets as so many samples could have them, to rehearse a step before training; zeros, `[samples]`."""
        return torch.zeros(samples, dtype=torch.int64)

    def blank_batch(self, inputs: Tensor, indices: Tensor, strong: Tensor | None = None) -> Batch:
        """A batch of these inputs, and what a step needs beside them, to rehearse it before training."""
        return Batch(inputs, self.blank_targets(len(inputs)).to(inputs.device), indices, strong)


TaskFactory = Callable[[DatasetSpec, Recipe, Numerics, Path | None, bool], Task]


def _brought(task: str, name: str) -> TaskFactory:
    """The class `name` of kdbench/tasks/<task>/task.py, imported when it is first used.

    Raises:
        KDBenchError: when it is used, if an extra with its libraries is not installed.
    """

    def made(dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool) -> Task:
        try:
            module = import_module(f"kdbench.tasks.{task}.task")
        except ModuleNotFoundError as error:
            raise KDBenchError(explained_absence(f"task {task!r}", error)) from error
        found: Task = getattr(module, name)(dataset, recipe, numerics, root, download)
        return found

    return made


_TASKS: dict[str, TaskFactory] = {
    "image": _brought("image", "ImageTask"),
    "text": _brought("text", "TextTask"),
    "translation": _brought("translation", "TranslationTask"),
    "detection": _brought("detection", "DetectionTask"),
}


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

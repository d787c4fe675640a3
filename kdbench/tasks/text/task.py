"""Text classification and regression: texts as tokens of one or more tokenizers, transformers' encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks.answers import likeliest, logits_of, sentences
from kdbench.tasks.classification import ClassificationTask, group, reliability
from kdbench.tasks.text import scores
from kdbench.tasks.text.data import LENGTH, load
from kdbench.tasks.text.data.loader import TextLoader
from kdbench.tasks.text.data.sets import TextData, Texts, changed
from kdbench.tasks.text.data.tokenizers import LEARNT, Tokenizer, make
from kdbench.tasks.text.metrics import METRICS
from kdbench.tasks.text.networks import create


class TextTask(ClassificationTask):
    """A set of texts under one recipe, on one device; its predictions are those of all its test sets, one after the
    other, `[N, K]`.

    Attributes:
        tokenizers: the data set's, in the order of their planes in a batch.
        length: tokens of every sample, L: the longest text's, or the option `length` where that is less.
    """

    metrics = METRICS

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool = True
    ) -> None:
        for key in ("augment", "image_size"):
            if getattr(recipe, key):
                raise KDBenchError(
                    f"the recipe has {key} = {getattr(recipe, key)!r}, which texts have not: take it out"
                )
        options = dataset.options or {}
        whole = load(dataset.name, root, options, download)
        names = options.get("tokenizers", [LEARNT])
        tokenizers = [make(name, whole.train) for name in names]
        # one width for all that is ever made of the set, so that protocols do not change it
        texts = (whole.train, *(texts for texts, _ in whole.tests.values()))
        longest = max(tokenizer.lengths(part) for tokenizer in tokenizers for part in texts)
        length = min(longest, options.get("length", LENGTH))
        self._begin(changed(whole, dataset.protocol), tokenizers, length, recipe.batch_size, numerics)

    def _begin(
        self, data: TextData, tokenizers: Sequence[Tokenizer], length: int, batch_size: int, numerics: Numerics
    ) -> None:
        self.data, self.tokenizers, self.length = data, tuple(tokenizers), length
        self.batch_size, self.numerics = batch_size, numerics
        self.num_classes, self.content = data.num_classes, data.content
        self.test_batch_size = self.training_set(0, False).test_batch_size

    def planes(self, texts: Texts) -> Tensor:
        """Three planes for each tokenizer, `[N, P, L]`, int32."""
        return torch.cat([tokenizer.planes(texts, self.length) for tokenizer in self.tokenizers], 1)

    @cached_property
    def _train(self) -> tuple[Tensor, Tensor]:
        device = self.numerics.device
        return self.planes(self.data.train).to(device), self.data.train_targets.to(device)

    @cached_property
    def _tests(self) -> tuple[Tensor, Tensor]:
        planes = torch.cat([self.planes(texts) for texts, _ in self.data.tests.values()])
        targets = torch.cat([targets for _, targets in self.data.tests.values()])
        return planes.to(self.numerics.device), targets.to(self.numerics.device)

    def training_set(self, seed: int, strong_view: bool) -> TextLoader:
        return TextLoader(*self._train, num_classes=self.num_classes, batch_size=self.batch_size, seed=seed)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        """By `kdbench.tasks.text.networks.create`; a checkpoint's name brings its weights, whatever `pretrained` is."""
        network = create(name, classes=self.data.classes, tokenizers=self.tokenizers, length=self.length, **options)
        self.numerics.place(network)
        return network

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        planes, targets = (part.split(self.test_batch_size) for part in self._tests)
        return ((inputs.long(), wanted) for inputs, wanted in zip(planes, targets, strict=True))

    @cached_property
    def targets(self) -> Tensor:
        return self._tests[1]

    def scores(self, predictions: Tensor, teacher: Tensor | None = None) -> dict[str, float | None]:
        ranked, targets = self._part(predictions), self.targets[: self._ranked]
        of_teacher = None if teacher is None else self._part(teacher)
        found = scores.scores(self.data.metric, ranked, targets, of_teacher)
        found["mismatched"] = None
        if "mismatched" in self.data.tests:
            start = sum(len(texts) for name, (texts, _) in self.data.tests.items() if name != "mismatched")
            answers, wanted = predictions[start:], self.targets[start:]
            found["mismatched"] = scores.scores("accuracy", answers, wanted)["accuracy"]
        return found

    def keeps(self, predictions: Tensor) -> dict[str, Any]:
        if self.data.is_regression:
            return {"metric": self.data.metric}

        kept = reliability(self._part(predictions), self.targets[: self._ranked])
        return {"metric": self.data.metric, "reliability": kept}

    def group(self, members: Sequence[Tensor]) -> dict[str, float]:

        if self.data.is_regression:
            return {}
        return group([self._part(member) for member in members], self.targets[: self._ranked])

    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """A line for each text, or for each pair of texts where the data are pairs: its three likeliest classes, or its
        number in a regression.
        """
        texts = self._given(sentences(given))
        inputs = self.planes(texts).long().to(self.numerics.device)
        logits = logits_of(model, inputs, self.numerics)
        if self.data.is_regression:
            return [f"{value:.2f}" for value in logits.flatten().tolist()]
        return likeliest(logits, self.data.classes)

    def _given(self, given: Sequence[str]) -> Texts:
        if self.data.train.second is None:
            return Texts(tuple(given))
        if len(given) % 2:
            raise KDBenchError(
                f"dataset {self.data.name!r} is of pairs of sentences, and {len(given)} given: give the second as well"
            )
        return Texts(tuple(given[::2]), tuple(given[1::2]))

    @property
    def _ranked(self) -> int:
        """Samples of the first test set."""
        return len(next(iter(self.data.tests.values()))[0])

    def _part(self, predictions: Tensor) -> Tensor:
        return predictions[: self._ranked]

    def example(self) -> Tensor:
        return torch.ones(1, 3 * len(self.tokenizers), self.length, dtype=torch.int64)

    def blank_targets(self, samples: int) -> Tensor:
        return torch.zeros(samples) if self.data.is_regression else super().blank_targets(samples)

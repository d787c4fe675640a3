"""A second task that classifies, for tests only: sequences of tokens, no images. It shows what a task must supply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Network, Output, Shapes
from kdbench.seeding import derive_seed
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks import protocols, register_task
from kdbench.tasks.classification import ClassificationTask
from kdbench.tasks.classification_metrics import classification_metrics
from kdbench.tasks.metrics import register

VOCABULARY, LENGTH, CLASSES = 16, 12, 3


class TokenNetwork(Network):
    """Token embedding, a few 1-d convolutions, a linear classifier: features are `[B, C, L]`."""

    def __init__(self, name: str, width: int, depth: int) -> None:
        super().__init__()
        self.name = name
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.stages = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)
        self.shapes = Shapes(CLASSES, width, tuple((width, LENGTH) for _ in range(depth)))

    def forward(self, inputs: Tensor) -> Output:
        hidden = self.tokens(inputs).transpose(1, 2)  # [B, C, L]
        features = []
        for stage in self.stages:
            hidden = stage(hidden).relu()
            features.append(hidden)
        embedding = hidden.mean(2)
        return Output(self.head(embedding), embedding, tuple(features))

    @property
    def classifier(self) -> nn.Module:
        return self.head


@dataclass(frozen=True)
class TokenSet:
    """Sequences `[N, LENGTH]` whose class is the residue of their count of small tokens; any protocol fits it."""

    name: str
    train_tokens: Tensor
    train_targets: Tensor
    test_tokens: Tensor
    test_targets: Tensor
    num_classes: int = CLASSES
    classes: tuple[str, ...] = ("none", "one", "two")
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def select(self, index: Tensor) -> TokenSet:
        return replace(self, train_tokens=self.train_tokens[index], train_targets=self.train_targets[index])

    def hold_out(self, index: Tensor) -> TokenSet:
        return replace(self, test_tokens=self.train_tokens[index], test_targets=self.train_targets[index])


def residues(name: str) -> TokenSet:
    tokens = torch.randint(VOCABULARY, (60, LENGTH), generator=torch.Generator().manual_seed(7))
    targets = (tokens < VOCABULARY // 3).sum(1) % CLASSES
    return TokenSet(name, tokens, targets, tokens, targets)


class TokenData:
    """What is trained on."""

    num_classes = CLASSES

    def __init__(self, tokens: TokenSet, seed: int, batch_size: int) -> None:
        self.tokens, self.targets = tokens.train_tokens, tokens.train_targets
        self.seed, self.batch_size = seed, batch_size
        self.steps_per_epoch = -(-len(self) // batch_size)

    def __len__(self) -> int:
        return len(self.targets)

    def _batch(self, indices: Tensor) -> Batch:
        return Batch(self.tokens[indices], self.targets[indices], indices)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return map(self._batch, torch.randperm(len(self), generator=generator).split(self.batch_size))

    def batches(self) -> Iterator[Batch]:
        return map(self._batch, torch.arange(len(self)).split(self.batch_size))


class TokenTask(ClassificationTask):
    num_classes = CLASSES
    metrics = register(classification_metrics("tokens"))

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool
    ) -> None:
        self.numerics, self.test_batch_size = numerics, recipe.batch_size
        self.data = protocols.apply(residues(dataset.name), dataset.protocol)

    def training_set(self, seed: int, strong_view: bool) -> TokenData:
        return TokenData(self.data, seed, self.test_batch_size)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        _, width, depth = name.split("_")
        network = TokenNetwork(name, int(width), int(depth))
        network.to(self.numerics.device)
        return network

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.test_batch_size
        return zip(self.data.test_tokens.split(size), self.data.test_targets.split(size), strict=True)

    def example(self) -> Tensor:
        return torch.zeros(1, LENGTH, dtype=torch.int64)


register_task("tokens", TokenTask)

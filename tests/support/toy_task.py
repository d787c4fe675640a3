"""A second task, for tests only: sequences of tokens, no images. It shows what a task must supply, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Network, Output, Shapes
from kdbench.seeding import derive_seed
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks import Task, register_task
from kdbench.tasks.classification import classification, group, logits_of

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


class TokenData:
    """Sequences whose class is the residue of their sum."""

    num_classes = CLASSES

    def __init__(self, samples: int, seed: int, batch_size: int) -> None:
        generator = torch.Generator().manual_seed(7)
        self.tokens = torch.randint(VOCABULARY, (samples, LENGTH), generator=generator)
        self.targets = (self.tokens < VOCABULARY // 3).sum(1) % CLASSES
        self.seed, self.batch_size = seed, batch_size
        self.steps_per_epoch = -(-samples // batch_size)

    def __len__(self) -> int:
        return len(self.targets)

    def _batch(self, indices: Tensor) -> Batch:
        return Batch(self.tokens[indices], self.targets[indices], indices)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return map(self._batch, torch.randperm(len(self), generator=generator).split(self.batch_size))

    def batches(self) -> Iterator[Batch]:
        return map(self._batch, torch.arange(len(self)).split(self.batch_size))


class TokenTask(Task):
    num_classes = CLASSES

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool
    ) -> None:
        self.recipe, self.numerics = recipe, numerics
        self.test = TokenData(60, 0, recipe.batch_size)

    def training_set(self, seed: int, strong_view: bool) -> TokenData:
        return TokenData(60, seed, self.recipe.batch_size)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        _, width, depth = name.split("_")
        network = TokenNetwork(name, int(width), int(depth))
        network.to(self.numerics.device)
        return network

    @torch.no_grad()
    def logits(self, model: Callable[..., object]) -> Tensor:
        assert isinstance(model, nn.Module)
        model.eval()
        return torch.cat([logits_of(model, batch.inputs).float() for batch in self.test.batches()])

    def metrics(self, logits: Tensor, teacher_logits: Tensor | None) -> dict[str, float | None]:
        return classification(logits, self.test.targets, teacher_logits)

    def group(self, members: list[Tensor]) -> dict[str, float]:
        return group(members, self.test.targets)

    def example(self) -> Tensor:
        return torch.zeros(1, LENGTH, dtype=torch.int64)


register_task("tokens", TokenTask)

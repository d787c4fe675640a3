"""Image classification: on-device or streamed images, timm networks, top-1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.reads import Taps
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks import Task, TrainingSet
from kdbench.tasks.classification import classification, group, logits_of, reliability
from kdbench.tasks.image.data import load_data, make_loader
from kdbench.tasks.image.networks import create


class ImageTask(Task):
    """An image data set under one recipe, on one device."""

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool = True
    ) -> None:
        self.numerics, self.recipe = numerics, recipe
        size = recipe.image_size or None
        self.data = load_data(
            dataset.name, root=root, protocol=dict(dataset.protocol), image_size=size, download=download
        )
        self.num_classes = self.data.num_classes
        self.content = self.data.content
        self._test = self._loader(seed=0, strong_view=False)
        self._targets: Tensor | None = None

    def training_set(self, seed: int, strong_view: bool) -> TrainingSet:
        return self._loader(seed, strong_view)

    def _loader(self, seed: int, strong_view: bool) -> Any:
        return make_loader(
            self.data,
            batch_size=self.recipe.batch_size,
            device=self.numerics.device,
            augment=self.recipe.augment,
            seed=seed,
            strong=strong_view,
            channels_last=self.numerics.channels_last,
        )

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        network = create(
            name,
            num_classes=self.num_classes,
            in_chans=self.input_size[0],
            input_size=self.input_size,
            pretrained=pretrained,
            data_normalization=(self.data.mean, self.data.std),
            **options,
        )
        self.numerics.place(network)
        return network

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of what networks are given."""
        return self.data.input_size

    @torch.no_grad()
    def logits(self, model: Callable[..., object]) -> Tensor:
        assert isinstance(model, nn.Module)
        model.eval()
        run = self.numerics.compiled(model, self._test.test_batch_size, taps=Taps())
        with self.numerics.autocast():
            return torch.cat([logits_of(run, inputs).float() for inputs, _ in self._test.test_batches()])

    @property
    def targets(self) -> Tensor:
        """The test set's, `[N]`."""
        if self._targets is None:
            self._targets = torch.cat([targets for _, targets in self._test.test_batches()])
        return self._targets

    def metrics(self, logits: Tensor, teacher_logits: Tensor | None) -> dict[str, float | None]:
        return classification(logits, self.targets, teacher_logits)

    def reliability(self, logits: Tensor) -> dict[str, list[float]]:
        return reliability(logits, self.targets)

    def group(self, members: list[Tensor]) -> dict[str, float]:
        return group(members, self.targets)

    def example(self) -> Tensor:
        return torch.zeros(1, *self.input_size)

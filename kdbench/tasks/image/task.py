"""Image classification: on-device or streamed images, timm networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network, answer_of
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks.answers import likeliest, logits_of
from kdbench.tasks.classification import ClassificationTask
from kdbench.tasks.image.data import ImageData, load_data, make_loader
from kdbench.tasks.image.data.augment import works_behind
from kdbench.tasks.image.data.given import of_files
from kdbench.tasks.image.metrics import METRICS
from kdbench.tasks.image.networks import create
from kdbench.tasks.task import TrainingSet


class ImageTask(ClassificationTask):
    """An image data set under one recipe, on one device."""

    metrics = METRICS

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool = True
    ) -> None:
        if dataset.options:
            raise KDBenchError(f"dataset {dataset.name!r} has options, which sets of images have not: take them out")
        self.numerics, self.recipe = numerics, recipe
        size = recipe.image_size or None
        self.data = load_data(
            dataset.name, root=root, protocol=dict(dataset.protocol), image_size=size, download=download
        )
        self.num_classes = self.data.num_classes
        self.content = self.data.content
        self._test = self._loader(seed=0, strong_view=False)
        self._rounding = WeakKeyDictionary[nn.Module, bool]()
        self.test_batch_size: int = self._test.test_batch_size

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
            together=self.numerics.augmented_together,
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

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._test.test_batches()

    def test_inputs(self, model: nn.Module) -> Iterator[Tensor]:
        return self._test.test_inputs(self._dtype_for(model))

    def _dtype_for(self, model: nn.Module) -> torch.dtype:
        """bf16 on a GPU where the cell runs in it and a network begins by rounding to it, as autocast has a convolution
        do; not where it resizes or normalises its inputs anew. Compiled, the order of both is the compiler's.
        """
        if self.numerics.precision != "bf16" or self.numerics.compiles or not works_behind(self.numerics.device):
            return torch.float32
        if model not in self._rounding:
            few = next(self._test.test_inputs(torch.float32))[:2]
            self._rounding[model] = _rounds_first(model, few)
        return torch.bfloat16 if self._rounding[model] else torch.float32

    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """A line for each picture file: its three likeliest classes. Pictures are brought to the data's size and colour
        as its test pictures are: the short side resized, the middle cut out; grey where the data are.
        """
        shown = make_loader(
            of_files(self.data, given),
            batch_size=self.recipe.batch_size,
            device=self.numerics.device,
            channels_last=self.numerics.channels_last,
            **({} if isinstance(self.data, ImageData) else {"workers": 0}),
        )
        logits = [logits_of(model, inputs, self.numerics) for inputs in shown.test_inputs(torch.float32)]
        lines = likeliest(torch.cat(logits), self.data.classes)
        return [f"{name}: {line}" for name, line in zip(given, lines, strict=True)]

    @cached_property
    def targets(self) -> Tensor:
        return self.data.test_targets.to(self.numerics.device)  # without opening the images

    def example(self) -> Tensor:
        return torch.zeros(1, *self.input_size)


def _rounds_first(model: nn.Module, inputs: Tensor) -> bool:
    """Whether a network says the same to the bit about inputs that are rounded to bf16 already."""
    try:
        return torch.equal(*(answer_of(model(some)).float() for some in (inputs.clone(), inputs.bfloat16())))
    except Exception:  # it cannot take such; what else is wrong shows where it is evaluated
        return False

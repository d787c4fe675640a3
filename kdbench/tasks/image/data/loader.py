"""Batches of a set in memory: uint8 images on the device, shuffled and augmented there."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.method import Batch
from kdbench.seeding import generator
from kdbench.tasks.image.data.augment import Augment, sent, strong_spec, take, works_behind
from kdbench.tasks.image.data.sets import Data, ImageData

SMALLEST_TEST_BATCH = 512
# How many numbers of uint8 images are augmented at a time: few batches of small images, so that the time goes into the
# pixels and not the calls, and all stay in the cache. RandAugment parts them by operation, and gains from more.
AUGMENTED_TOGETHER, STRONGLY_AUGMENTED_TOGETHER = 2**20, 2**22
# On a GPU as much as memory bears, since the host waits for nothing and issues a step's operators once for all batches:
# an epoch of CIFAR is 1.5e8. Chains that pad or compute in fp32 take so many times fewer.
AUGMENTED_TOGETHER_ON_GPUS = 2**28
TESTED_AT_MOST = 2**29  # bytes of a normalised test set that stays on a GPU


@dataclass(frozen=True)
class Order:
    """In which order each epoch goes through the training set: decided by the seed and the epoch's number alone.

    Attributes:
        size: training samples.
        steps: batches in an epoch.
    """

    size: int
    batch_size: int
    steps: int
    seed: int

    def batches(self, epoch: int) -> list[Tensor]:
        """The sample indices of each batch of an epoch, on the CPU."""
        order = torch.randperm(self.size, generator=generator(self.seed, "order", epoch))
        return list(order.split(self.batch_size)[: self.steps])


class Loader(ABC):
    """What loaders have in common; it is the `Dataset` of `kdbench.method`.

    An epoch is decided by (seed, epoch) alone: there is no state, epochs can be run in any order, and the global random
    numbers are neither used nor disturbed. The strong view has its own random numbers, so that asking for it leaves the
    first view and the order as they are.

    Attributes:
        targets: training labels, `[N]`, int64, on the device; noisy under label noise.
        clean_targets: the same without noise.
        num_classes: K.
        input_size: (C, H, W) of a network's input.
        steps_per_epoch: batches in an epoch.
        order: which samples they hold.
        knows_crops: whether all crops are drawn here, so that a batch's `follow` can repeat them.
    """

    knows_crops = False

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        augment: Sequence[str] = (),
        seed: int = 0,
        drop_last: bool = False,
        strong: bool = False,
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
        test_batch_size: int | None = None,
    ):
        """Make a loader.

        Args:
            augment: names of `kdbench.tasks.image.data.augment`, e.g. `("pad_crop:4", "flip")`.
            drop_last: drop a last batch that is not full. Otherwise only a last batch of a single sample is dropped,
                because BatchNorm cannot train on it.
            strong: give each batch a second view with RandAugment.
            dtype: of the images that are given.

        Raises:
            KDBenchError: for a batch size below 1 or a set too small for one batch, or a wrong augmentation.
        """
        if batch_size < 1:
            raise KDBenchError(f"batch_size is {batch_size}, but it must be at least 1")
        self.data = data
        self.batch_size = batch_size
        self.test_batch_size = test_batch_size or 2 * batch_size
        self.device = torch.device(device)
        self.seed = seed
        self.strong = strong
        self.channels_last = channels_last
        self.dtype = dtype
        self.augment = Augment(augment, data.mean)
        self.augment_strong = Augment(strong_spec(augment), data.mean)
        self.num_classes = data.num_classes
        self.input_size = data.input_size
        self.targets = data.train_targets.to(self.device)
        self.clean_targets = data.clean_targets.to(self.device)
        self.test_targets = data.test_targets.to(self.device)
        full, rest = divmod(len(self), batch_size)
        self.steps_per_epoch = full + (not drop_last and rest > 1)
        if not self.steps_per_epoch:
            raise KDBenchError(
                f"dataset {data.name!r} has {len(self)} training samples, too few for one batch of {batch_size}: "
                "make the batch smaller or the set larger"
            )
        self.order = Order(len(self), batch_size, self.steps_per_epoch, seed)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        # [1, C, H, W], laid out as the images: a broadcast along channels-last pixels is many times slower
        self._mean, self._std = (
            (torch.tensor(values, device=self.device)[:, None, None] * 255)
            .expand(1, *self.input_size)
            .contiguous(memory_format=self._format)
            for values in (data.mean, data.std)
        )

    def __len__(self) -> int:
        """Training samples."""
        return len(self.data.train_targets)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The shuffled, augmented training batches of one epoch."""
        draws, strong_draws = generator(self.seed, "view", epoch), generator(self.seed, "strong view", epoch)
        for indices, images, second in self._views(epoch):
            sizes = [len(index) for index in indices]
            shown, drawn = self.augment.several(images, sizes, draws)
            strong = self.augment_strong.several(second, sizes, strong_draws)[0] if self.strong else ()
            for number, index in enumerate(indices):
                follow = partial(self._follow, drawn[number], images.shape[-2:]) if self.knows_crops else None
                other = self._finish(strong[number]) if self.strong else None
                yield Batch(self._finish(shown[number]), self.targets[index], index, other, follow)

    def _follow(self, drawn: Sequence[Tensor], stored: torch.Size, maps: Tensor) -> Tensor:
        """Crops are drawn in pixels of the size at which images are stored; maps of another size pass through it."""
        moved = self.augment.follow(_resized(maps, stored), drawn)
        return _resized(moved, maps.shape[-2:])

    def batches(self) -> Iterator[Batch]:
        """All training samples in index order, without augmentation."""
        start = 0
        for images in self._images(train=True, batch_size=self.batch_size):
            indices = torch.arange(start, start + len(images), device=self.device)
            yield Batch(self._finish(images), self.targets[indices], indices)
            start += len(images)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test set's (inputs, targets) in order, in batches of `test_batch_size`."""
        yield from zip(self.test_inputs(self.dtype), self.test_targets.split(self.test_batch_size), strict=True)

    def test_inputs(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The inputs alone, in a dtype."""
        for images in self._images(train=False, batch_size=self.test_batch_size):
            yield self._finish(images, dtype)

    @abstractmethod
    def _views(self, epoch: int) -> Iterator[tuple[Sequence[Tensor], Tensor, Tensor]]:
        """Some batches that are augmented at a time: each one's indices `[B]`, and of all, one after the other, the
        images and those of the second view, on the device, uint8.
        """

    @abstractmethod
    def _images(self, train: bool, batch_size: int) -> Iterable[Tensor]:
        """All images of a split in order, uint8 `[B, C, H, W]` on the device."""

    def _finish(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """uint8 -> resized to `image_size` where they are stored at another one, normalised, in `dtype`."""
        inputs = _resized(images.to(torch.float32), self.input_size[1:]).contiguous(memory_format=self._format)
        return inputs.sub_(self._mean).div_(self._std).to(dtype or self.dtype)  # in place: `inputs` is a copy of uint8


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Float images `[B, C, H, W]` at another size (H, W)."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True)


class DeviceLoader(Loader):
    """Batches of an `ImageData` that lies on the device as a whole.

    On a GPU nothing in an epoch waits for the device but what the strong view's operations copy to it, once for all
    batches that are augmented together: indices and drawn numbers come in one copy each.
    """

    data: ImageData
    knows_crops = True

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        *,
        test_batch_size: int | None = None,
        together: int | None = None,
        **options: Any,
    ):
        """As `Loader`; test batches hold at least 512 images.

        Args:
            together: how many numbers of images are augmented at a time; it changes no image. None: what was found
                best on a CPU, and on a GPU 2**28, divided by what the chain takes more (`Augment.growth`).
        """
        super().__init__(
            data, batch_size, test_batch_size=test_batch_size or max(batch_size, SMALLEST_TEST_BATCH), **options
        )
        self.train_images, self.test_images = data.on(self.device, self.augment.format)
        image = self.train_images[0]
        if together is None:
            together = STRONGLY_AUGMENTED_TOGETHER if self.strong else AUGMENTED_TOGETHER
            if works_behind(self.device):
                chains = [self.augment, *([self.augment_strong] if self.strong else [])]
                growth = max(chain.growth(image.shape[-2:]) for chain in chains)
                together = int(AUGMENTED_TOGETHER_ON_GPUS / growth)
        self._together = max(1, together // (batch_size * image.numel()))
        self._normalised = cache(self._normalise)  # no attribute that holds tensors: each reader gets copies

    def test_inputs(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Normalised once on a GPU that has room for them; a network may do anything with its copy of a batch."""
        size = len(self.test_images) * math.prod(self.input_size) * dtype.itemsize
        if works_behind(self.device) and size <= TESTED_AT_MOST:
            return (inputs.clone() for inputs in self._normalised(dtype))
        return super().test_inputs(dtype)

    def _normalise(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(super().test_inputs(dtype))

    def _views(self, epoch: int) -> Iterator[tuple[Sequence[Tensor], Tensor, Tensor]]:
        batches = self.order.batches(epoch)
        everyone = sent(torch.cat(batches), self.device).split([len(batch) for batch in batches])
        for start in range(0, len(everyone), self._together):
            indices = everyone[start : start + self._together]
            images = take(self.train_images, torch.cat(indices))
            yield indices, images, images

    def _images(self, train: bool, batch_size: int) -> Iterable[Tensor]:
        return (self.train_images if train else self.test_images).split(batch_size)

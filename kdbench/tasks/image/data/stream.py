"""Batches of a set too large for memory: images are opened, cropped and resized by timm's transforms in workers.

What `augment` names beside `random_resized_crop` runs on the device on whole batches, by the code of sets in memory.
torch's DataLoader stands behind it in place of timm's: that one shuffles by the global random numbers and normalises
before the augmentation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from timm.data import create_transform
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.tasks.image.data.augment import parse
from kdbench.tasks.image.data.loader import Loader
from kdbench.tasks.image.data.sets import STORED_SIZE, Images, StreamedData, centre_transform
from kdbench.tasks.image.data.workers import Epochs, InOrder, Passes, Workers

CROP_PCT = 0.875  # ImageNet's custom: resize the short side to image_size / 0.875, then cut out the middle
MAX_WORKERS = 8


class StreamLoader(Loader):
    """Batches of a `StreamedData`.

    The random crop of a sample is seeded by (seed, epoch, index), so the result does not depend on the workers. Those
    of the training and of the test set live as long as a loader does that uses them; loaders of one set share them, so
    that a run with and without a strong view has no second set of workers.
    """

    data: StreamedData

    def __init__(
        self,
        data: StreamedData,
        batch_size: int,
        *,
        augment: Sequence[str] = ("random_resized_crop", "flip"),
        workers: int | None = None,
        **options: Any,
    ):
        """As `Loader`; `random_resized_crop`, if named, must come first. `workers` = 0 reads in this process."""
        crop, rest = split_crop(augment)
        super().__init__(data, batch_size, augment=rest, **options)
        self.workers = min(MAX_WORKERS, os.cpu_count() or 1) if workers is None else workers
        self.centre = centre_transform(data.image_size, 1.0 if data.image_size <= STORED_SIZE else CROP_PCT)
        self.crop = self.centre if crop is None else crop_transform(data.image_size, crop)
        self._train = self._shared("train", data.train, self.crop, crop)
        self._test = self._shared("test", data.test, self.centre)

    def _shared(self, split: str, images: Images, transform: Any, crop: float | None = None) -> Workers:
        """The workers of the set's loaders that read a split alike."""
        cuda = self.device.type == "cuda"
        key = split, crop, self.workers, cuda
        return self.data.workers.setdefault(key, Workers(images, transform, self.workers, pin_memory=cuda))

    def _views(self, epoch: int) -> Iterator[tuple[Sequence[Tensor], Tensor, Tensor]]:
        passes = Epochs(self.order, 2 if self.strong else 1)
        for indices, *images in self._read(self._train, passes, epoch):
            yield (indices,), images[0], images[-1]  # batch by batch: none is waited for

    def _images(self, train: bool, batch_size: int) -> Iterator[Tensor]:
        workers, size = self._test, len(self.data.test)
        if train:  # read a few times at most, before training: these workers need not stay
            cuda = self.device.type == "cuda"
            workers, size = Workers(self.data.train, self.centre, self.workers, pin_memory=cuda), len(self)
        for _, batch in self._read(workers, InOrder(size, batch_size)):
            yield batch

    def _read(self, workers: Workers, passes: Passes, number: int = 0) -> Iterator[list[Tensor]]:
        """Indices and views of each batch, on the device."""
        cuda = self.device.type == "cuda"
        try:
            for tensors in workers.read(passes, number):
                yield [tensor.to(self.device, non_blocking=cuda) for tensor in tensors]
        except KDBenchError as error:  # a worker's error arrives with its whole traceback as the message
            raise KDBenchError(str(error).strip().splitlines()[-1].partition("KDBenchError: ")[2] or error) from None


def split_crop(augment: Sequence[str]) -> tuple[float | None, tuple[str, ...]]:
    """Smallest area of a leading `random_resized_crop` (None if there is none), and the other steps.

    Raises:
        KDBenchError: if `random_resized_crop` comes later or twice, or a name or argument is wrong.
    """
    steps = [parse(step) for step in augment]
    late = [text for text, (name, _) in zip(augment[1:], steps[1:], strict=True) if name == "random_resized_crop"]
    if late:
        raise KDBenchError(f"augmentation {late[0]!r} must come first and once when images are streamed: move it there")
    if steps and steps[0][0] == "random_resized_crop":
        return steps[0][1].get("min_area", 0.08), tuple(augment[1:])
    return None, tuple(augment)


def crop_transform(image_size: int, min_area: float) -> Any:
    """timm's random resized crop, PIL image -> uint8 `[C, image_size, image_size]`; draws from Python's `random`."""
    return create_transform(
        image_size, is_training=True, scale=(min_area, 1.0), hflip=0.0, color_jitter=0.0, use_prefetcher=True
    )

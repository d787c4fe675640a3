"""Batches of a detection set: shuffled, flipped where asked for, normalised, with their boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kdbench.errors import KDBenchError, unknown
from kdbench.hardware.numerics import Numerics
from kdbench.seeding import generator
from kdbench.tasks.detection.data.sets import DetectionData, Split
from kdbench.tasks.detection.output import DetectionBatch

FLIP = "flip"  # the one augmentation that moves boxes along


class DetectionLoader:
    """The training set as `kdbench.tasks.TrainingSet`; an epoch is decided by (seed, epoch) alone.

    Attributes:
        targets: the labels of all pictures, one after the other.
        num_classes: K.

    Raises:
        KDBenchError: for an unknown augmentation, or a set too small for one batch.
    """

    def __init__(
        self, data: DetectionData, batch_size: int, numerics: Numerics, augment: Sequence[str], seed: int
    ) -> None:
        for name in augment:
            if name != FLIP:
                raise unknown("augmentation of detection", name, [FLIP])
        self.data, self.split, self.batch_size, self.numerics, self.seed = data, data.train, batch_size, numerics, seed
        self.flips = FLIP in augment
        self.num_classes = len(data.classes)
        self.test_batch_size = batch_size
        full, rest = divmod(len(self), batch_size)
        self.steps_per_epoch = full + (rest > 1)  # BatchNorm cannot train on a single picture
        if not self.steps_per_epoch:
            raise KDBenchError(
                f"dataset {data.name!r} has {len(self)} training pictures, too few for one batch of {batch_size}: make "
                "the batch smaller or the set larger"
            )
        self.targets = torch.cat(self.split.labels).to(numerics.device)

    def __len__(self) -> int:
        return len(self.split)

    def epoch(self, epoch: int) -> Iterator[DetectionBatch]:
        """One epoch's shuffled batches."""
        order = torch.randperm(len(self), generator=generator(self.seed, "order", epoch))
        flipped = torch.rand(len(self), generator=generator(self.seed, "view", epoch)) < 0.5
        for indices in order.split(self.batch_size)[: self.steps_per_epoch]:
            yield self._batch(self.split, indices, flipped[indices] if self.flips else None)

    def batches(self) -> Iterator[DetectionBatch]:
        """All training pictures in index order, as they are."""
        return (self._batch(self.split, indices) for indices in torch.arange(len(self)).split(self.batch_size))

    def test_batches(self) -> Iterator[DetectionBatch]:
        """All test pictures in order."""
        split = self.data.test
        return (self._batch(split, indices) for indices in torch.arange(len(split)).split(self.batch_size))

    def _batch(self, split: Split, indices: Tensor, flipped: Tensor | None = None) -> DetectionBatch:
        chosen, device = indices.tolist(), self.numerics.device
        pictures = split.pictures(chosen)
        original = split.sizes[indices].double()
        scale = scales(original, self.data.size)
        sizes = (original * scale[:, None]).round().long().clamp(min=1)
        boxes, labels = [], []
        for place, index in enumerate(chosen):
            real = ~split.crowds[index]  # a crowd is no object to be found
            moved = split.boxes[index][real] * scale[place]
            if flipped is not None and flipped[place]:
                width = int(sizes[place, 1])
                columns = torch.arange(pictures.shape[3])
                columns = torch.where(columns < width, width - 1 - columns, columns)
                pictures[place] = pictures[place][:, :, columns]
                moved = torch.stack([width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], 1)
            boxes.append(moved.float().to(device))
            labels.append(split.labels[index][real].to(device))
        inputs = self.numerics.place_inputs(normalized(pictures.to(device), self.data))
        return DetectionBatch(
            inputs,
            torch.cat(labels),
            indices.to(device),
            boxes=tuple(boxes),
            labels=tuple(labels),
            sizes=sizes.to(device),
        )


def scales(sizes: Tensor, side: int) -> Tensor:
    """By what pictures of these heights and widths `[B, 2]` are resized, `[B]`: the longer side becomes `side`."""
    return side / sizes.amax(1)


def normalized(pictures: Tensor, data: DetectionData) -> Tensor:
    """uint8 `[B, C, S, S]` to float32 by the data's mean and deviation."""
    mean, std = (torch.tensor(values, device=pictures.device)[:, None, None] * 255 for values in (data.mean, data.std))
    return (pictures.float() - mean) / std

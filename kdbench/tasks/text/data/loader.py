"""Batches of texts: planes of tokens on the device, all of one width, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdbench.method import Batch
from kdbench.seeding import generator

SMALLEST_TEST_BATCH = 256


@dataclass
class TextLoader:
    """A training set; it is the `Dataset` of `kdbench.method`. An epoch has no state, and none of its samples is left
    out: the last batch may be shorter.

    Attributes:
        planes: `[N, P, L]`, int32, on the device.
        targets: `[N]`, on the device.
        num_classes: K; 1 in a regression.
        steps_per_epoch: batches in an epoch.
        test_batch_size: samples in a full batch of a test set.
    """

    planes: Tensor
    targets: Tensor
    num_classes: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        self.steps_per_epoch = -(-len(self) // self.batch_size)
        self.test_batch_size = max(self.batch_size, SMALLEST_TEST_BATCH)

    def __len__(self) -> int:
        return len(self.targets)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Shuffled batches of an epoch."""
        order = torch.randperm(len(self), generator=generator(self.seed, "order", epoch))
        return map(self._batch, order.split(self.batch_size))

    def batches(self) -> Iterator[Batch]:
        """All samples in their order."""
        return map(self._batch, torch.arange(len(self)).split(self.batch_size))

    def _batch(self, indices: Tensor) -> Batch:
        indices = indices.to(self.planes.device)
        return Batch(self.planes[indices].long(), self.targets[indices], indices)

"""Processes that open, crop and resize images, and outlive a pass over the set.

torch's DataLoader forgets at the end of a pass what its workers might have read ahead. Here it is told one endless row
of batches, so that the workers begin an epoch while the last one still trains and the test set is evaluated.
"""

from __future__ import annotations

import ctypes
import itertools
import signal
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from traceback import clear_frames
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdbench.seeding import seeded
from kdbench.tasks.image.data.loader import Order
from kdbench.tasks.image.data.sets import Images

PR_SET_PDEATHSIG = 1  # of Linux's prctl
Sample = tuple[tuple[int, ...], int, int]  # what seeds its crops, how many views of it, its index


class Passes(Protocol):
    """Which samples the batches of pass number 0, 1, ... hold; two that are equal mean the same passes."""

    @property
    def steps(self) -> int:
        """Batches in a pass."""
        ...

    def row(self, number: int) -> Iterator[list[Sample]]:
        """The batches of a pass, and then those of all that are likely to follow it."""
        ...


@dataclass(frozen=True)
class Epochs:
    """Shuffled passes; each image's crops are seeded by (seed, epoch, index, view)."""

    order: Order
    views: int

    @property
    def steps(self) -> int:
        return self.order.steps

    def row(self, number: int) -> Iterator[list[Sample]]:
        for epoch in itertools.count(number):
            for indices in self.order.batches(epoch):
                yield [((self.order.seed, epoch), self.views, index) for index in indices.tolist()]


@dataclass(frozen=True)
class InOrder:
    """One pass over all samples as they stand. Nothing follows it: nobody says whether there will be another."""

    size: int
    batch_size: int

    @property
    def steps(self) -> int:
        return -(-self.size // self.batch_size)

    def row(self, number: int) -> Iterator[list[Sample]]:
        for indices in torch.arange(self.size).split(self.batch_size):
            yield [((), 1, index) for index in indices.tolist()]


class Workers:
    """Reads passes over a set in processes that the first pass starts and that end with this object."""

    def __init__(self, images: Images, transform: Any, workers: int, pin_memory: bool):
        """`workers` = 0 reads in this process, and nothing ahead; otherwise each reads two batches ahead."""
        self._set = images, transform, workers, pin_memory
        self._plan = _Plan()
        self._open: dict[str, Any] = {}  # the DataLoader and its iterator, once there are any
        # Where this object dies in a cycle, the collector takes the pipes away before the workers have heard of the
        # end, and each is waited for in vain. So they are no garbage until then.
        weakref.finalize(self, self._open.clear)
        self._next: tuple[Passes, int] | None = None  # the pass whose first batch is the next one of the row
        self._busy = False

    def read(self, passes: Passes, number: int = 0) -> Iterator[list[Tensor]]:
        """`[indices, view, view, ...]` of each batch of a pass; images are uint8 `[B, C, H, W]`.

        Passes in their order are one row for the workers. Another pass, or one after a pass that was left early, makes
        them forget what they have read ahead. A second pass beside one that still runs gets workers of its own.
        """
        if self._busy:
            yield from Workers(*self._set).read(passes, number)
            return
        self._busy = True
        try:
            if self._next != (passes, number):
                self._begin(passes, number)
            self._next = None
            for _ in range(passes.steps):
                yield next(self._open["row"])
            self._next = passes, number + 1
        except GeneratorExit:
            raise
        except BaseException as error:  # of a worker, or a dead worker, or Ctrl-C
            clear_frames(error.__traceback__)  # they hold the workers, and the error holds them
            self._open.clear()
            raise
        finally:
            self._busy = False

    def _begin(self, passes: Passes, number: int) -> None:
        images, transform, workers, pin_memory = self._set
        if not self._open:
            self._open["loader"] = DataLoader(
                Samples(images, transform),  # type: ignore[arg-type]  # all it needs is __getitem__
                batch_sampler=self._plan,  # type: ignore[arg-type]  # an iterable is all it needs
                num_workers=workers,
                pin_memory=pin_memory,
                worker_init_fn=_die_with_parent,
                persistent_workers=workers > 0,
                generator=torch.Generator(),  # without one it draws from the global random numbers
            )
        self._plan.row = passes.row(number)
        self._open["row"] = iter(self._open["loader"])


def _die_with_parent(_worker: int) -> None:
    """Let the kernel end this worker with the process that started it, whatever ends that one (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Plan:
    """What DataLoader asks for the samples of the next batch; it asks for an iterator whenever it starts anew."""

    row: Iterator[list[Sample]]

    def __iter__(self) -> Iterator[list[Sample]]:
        return self.row


class Samples:
    """(index, view, view, ...) of each sample, cropped under random numbers of its own."""

    def __init__(self, images: Images, transform: Any):
        self.images = images
        self.transform = transform

    def __getitem__(self, sample: Sample) -> tuple:
        seed, views, index = sample
        image = self.images[index]
        result = []
        for view in range(views):
            with seeded(*seed, "crop", index, view):
                result.append(torch.as_tensor(self.transform(image)))
        return index, *result

"""Batches of parallel text: padded to their longest sentence, with the real target tokens as targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kdbench.method import Batch
from kdbench.seeding import derive_seed
from kdbench.tasks.translation.data.pairs import Pair
from kdbench.tasks.translation.vocabulary import END, PAD, Vocabulary

POOL = 8  # batches that are sorted by length together, at most
STEP = 8  # lengths are rounded up to a multiple of it, so that compiled networks meet few shapes


class Example(NamedTuple):
    """Ids of a source and of its target, each with its end."""

    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class TranslationBatch(Batch):
    """A batch of sentences.

    Attributes:
        inputs: `[B, 4, L]`: source ids, source mask, decoder-input ids (the start, and the target without its end),
            target mask.
        targets: the real target tokens, ends included, sentence by sentence, `[N]`.
        first: inputs and targets of the same sources with the hypothesis that a teacher's rule ranks first, where
            another was chosen by the reference; else None.
    """

    first: tuple[Tensor, Tensor] | None = None


def examples_of(pairs: Sequence[Pair], vocabulary: Vocabulary, longest: int) -> list[Example]:
    """Ids of pairs; what is longer is cut before its end."""

    def cut(ids: list[int]) -> tuple[int, ...]:
        return (*ids[:-1][: longest - 1], END)

    return [
        Example(cut(vocabulary.source(pair.source, pair.language)), cut(vocabulary.target(pair.target)))
        for pair in pairs
    ]


def planes(examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs `[B, 4, L]` and targets `[N]` of examples, on the device."""
    longest = max(max(len(each.source), len(each.target)) for each in examples)
    length = -(-longest // STEP) * STEP
    rows = [
        [
            _filled(each.source, length),
            _filled([1] * len(each.source), length),
            _filled([PAD, *each.target[:-1]], length),
            _filled([1] * len(each.target), length),
        ]
        for each in examples
    ]
    targets = [token for each in examples for token in each.target]
    return torch.tensor(rows).to(device), torch.tensor(targets).to(device)


def collate(
    examples: Sequence[Example],
    places: Sequence[int],
    device: torch.device,
    firsts: Sequence[Example] | None = None,
) -> TranslationBatch:
    """A batch of examples.

    Args:
        places: of the examples in the training set; those that are too many are left out.
        firsts: see `TranslationBatch.first`.
    """
    inputs, targets = planes(examples, device)
    indices = torch.tensor(places[: len(examples)]).to(device)
    return TranslationBatch(inputs, targets, indices, first=None if firsts is None else planes(firsts, device))


class ParallelSet:
    """A training set of sentences; each epoch's order is decided by the seed and the epoch's number.

    Sentences of like length stand in a batch, so that little of it is padding: an epoch is shuffled and cut into pools
    of a few batches, each pool is sorted by length and cut into batches, and these are shuffled again.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        device: torch.device,
        seed: int,
        firsts: Sequence[Example] | None = None,
        vocabulary: int = 0,
    ) -> None:
        self.num_classes = vocabulary  # what a token is one of
        self._examples, self._firsts = list(examples), None if firsts is None else list(firsts)
        self._batch_size, self._device, self._seed = batch_size, device, seed
        self.targets = torch.tensor([token for each in examples for token in each.target]).to(device)
        self.steps_per_epoch = -(-len(self._examples) // batch_size)
        self._lengths = torch.tensor([max(len(each.source), len(each.target)) for each in examples])
        # in a small set a pool of many batches would leave nothing to chance
        self._pool = max(1, min(POOL, self.steps_per_epoch // 4))

    def __len__(self) -> int:
        return len(self._examples)

    def _batch(self, indices: Tensor) -> Batch:
        places = indices.tolist()
        firsts = None if self._firsts is None else [self._firsts[place] for place in places]
        return collate([self._examples[place] for place in places], places, self._device, firsts)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        draws = torch.Generator().manual_seed(derive_seed(self._seed, "order", epoch))
        batches: list[Tensor] = []
        for pool in torch.randperm(len(self), generator=draws).split(self._pool * self._batch_size):
            batches += pool[self._lengths[pool].sort(stable=True).indices].split(self._batch_size)
        return (self._batch(batches[place]) for place in torch.randperm(len(batches), generator=draws).tolist())

    def batches(self) -> Iterator[Batch]:
        return map(self._batch, torch.arange(len(self)).split(self._batch_size))


def _filled(ids: Sequence[int], length: int) -> list[int]:
    return [*ids, *[PAD] * (length - len(ids))]

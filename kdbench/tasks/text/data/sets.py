"""What a set of texts is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.tasks import protocols
from kdbench.tasks.text.metrics import REGRESSION


@dataclass(frozen=True)
class Texts:
    """Texts, or pairs of texts.

    Attributes:
        first: N texts.
        second: the other text of each pair; None where there are no pairs.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.first)

    def select(self, index: Tensor | Sequence[int]) -> Texts:
        """These texts, in this order."""
        places = [int(place) for place in index]
        second = None if self.second is None else tuple(self.second[place] for place in places)
        return Texts(tuple(self.first[place] for place in places), second)


@dataclass(frozen=True)
class TextData:
    """A set of texts with their classes, or numbers in a regression.

    Attributes:
        name: as the user wrote it.
        train, train_targets: training texts, and their classes `[N]`, int64, noisy under label noise; in a regression
            numbers, float32.
        tests: by name the sets to score on; the first is ranked.
        classes: the K names; one where targets are numbers.
        metric: what is ranked, a key of `kdbench.tasks.text.metrics.SCORES`.
        clean_targets: the training targets without label noise.
        protocol: what was done to the set (`protocols.resolve`).
    """

    name: str
    train: Texts
    train_targets: Tensor
    tests: Mapping[str, tuple[Texts, Tensor]]
    classes: tuple[str, ...]
    metric: str = "accuracy"
    clean_targets: Tensor = None  # type: ignore[assignment]  # filled in below
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.clean_targets is None:
            object.__setattr__(self, "clean_targets", self.train_targets)

    @property
    def num_classes(self) -> int:
        """K; 1 where targets are numbers."""
        return len(self.classes)

    @property
    def is_regression(self) -> bool:
        return self.metric == REGRESSION

    @property
    def content(self) -> str:
        """16 hex digits over every text and target."""
        total = hashlib.sha256(f"{self.classes}{self.metric}{list(self.tests)}".encode())
        for texts, targets in ((self.train, self.train_targets), *self.tests.values()):
            total.update("\0".join((*texts.first, "\1", *(texts.second or ()))).encode("utf-8", "surrogatepass"))
            total.update(targets.contiguous().numpy().data)
        return total.hexdigest()[:16]

    def select(self, index: Tensor) -> TextData:
        """Keep these training samples `[M]`, in this order."""
        return replace(
            self,
            train=self.train.select(index),
            train_targets=self.train_targets[index],
            clean_targets=self.clean_targets[index],
        )

    def hold_out(self, index: Tensor) -> TextData:
        """Evaluate on these training samples `[M]` in place of the test sets; they stay in the training set."""
        return replace(self, tests={"validation": (self.train.select(index), self.clean_targets[index])})


def changed(data: TextData, protocol: Mapping[str, Any] | None) -> TextData:
    """Apply a protocol. A regression's texts have no classes: they take a validation part alone.

    Raises:
        KDBenchError: as `protocols.apply`.
    """
    if not data.is_regression:
        return protocols.apply(data, protocol)
    for name in protocols.resolve(protocol):
        if name != "validation":
            raise KDBenchError(f"protocol {name} is about classes, and dataset {data.name!r} has none: take it out")
    alike = replace(data, train_targets=torch.zeros(len(data.train), dtype=torch.int64))
    done = protocols.apply(alike, protocol)
    return replace(done, train_targets=done.clean_targets)

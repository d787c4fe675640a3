"""The recipe: how every method of a suite is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.suites.added import added

OPTIMIZERS = ("adam", "adamw", "lamb", "lion", "rmsprop", "sgd")  # timm has more: these need no look at its list
# of timm's schedules, those that follow the epoch alone
SCHEDULES = ("cosine", "multistep", "none", "poly", "step", "tanh")
LENGTH = ("epochs", "updates")  # how long a training is: one of the two
PARTS, SMALLEST = 100, 10  # a training of so many updates has 100 parts, or fewer of at least 10 updates


@dataclass(frozen=True)
class Recipe:
    """How every method of a suite is trained.

    Attributes:
        epochs, batch_size, learning_rate, momentum, weight_decay: as usual.
        updates: optimiser steps of the training, in place of `epochs`: the same on data of any size. The training is
            cut into `length` equal parts, and whatever else counts epochs (the curve, `evaluate_every`, phases, ramps)
            then counts parts.
        optimizer: a name that `timm.optim` knows; `sgd` is without Nesterov unless `nesterov`.
        decay_norm_and_bias: whether weight decay reaches norm weights and biases (True in the CIFAR literature).
        schedule: a name that `timm.scheduler` knows (`multistep`, `cosine`, ...).
        milestones: where `multistep` multiplies the rate by `decay_rate`, as shares of the training.
        warmup_epochs, min_learning_rate: of the schedule.
        warmup_share: the warm-up as a share of the training, in place of `warmup_epochs`.
        clip_grad: largest gradient norm, 0 for none.
        augment: training augmentation, e.g. `["pad_crop:4", "flip"]`.
        image_size: side in pixels that the data set is resized to, 0 for its own.
        precision: `auto` follows the device; `fp32`, `bf16` or `tf32` (CUDA) fixes it and is part of the cell.
        pretrained: start from timm's pretrained weights instead of from scratch.
        evaluate_every: score the student on the test set after every so many epochs, and after the last.
        patience, held_out: stop early (`kdbench.training.stopping`): hold this share of the training samples out, score
            them in place of the test set, end after so many scores without a better one, and keep the best one's
            weights. Such runs are not ranked. 0: train to the end, as all ranked runs do.
    """

    epochs: int = added(0)  # left out where `updates` stands for it
    batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    schedule: str = "multistep"
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    decay_rate: float = 0.1
    warmup_epochs: int = 0
    min_learning_rate: float = 0.0
    clip_grad: float = 0.0
    augment: tuple[str, ...] = ()
    image_size: int = 0
    precision: str = "auto"
    pretrained: bool = False
    evaluate_every: int = 1
    updates: int = added(0)
    warmup_share: float = added(0.0)
    patience: int = added(0)
    held_out: float = added(0.0)

    @property
    def length(self) -> int:
        """How many epochs the training has, or parts where its length is given in updates."""
        return self.epochs or parts(self.updates)

    @property
    def unit(self) -> str:
        """What its length is given in: one of `LENGTH`."""
        return "updates" if self.updates else "epochs"

    @property
    def span(self) -> str:
        """How long it is: `240 epochs`, or `3000 updates`."""
        return f"{getattr(self, self.unit)} {self.unit}"

    def part(self, number: int) -> tuple[int, int]:
        """The updates of part `number`, from 0: the first, and the one after the last."""
        return part({"updates": self.updates}, number)

    def steps(self, number: int, steps_per_epoch: int) -> int:
        """How many updates epoch or part `number` has, on data of so many batches."""
        start, end = self.part(number) if self.updates else (0, steps_per_epoch)
        return end - start

    def warmup(self, length: int) -> int:
        """Epochs (or parts) of warm-up in a phase of `length`."""
        return round(self.warmup_share * length) if self.warmup_share else self.warmup_epochs

    def changed(self, **changes: Any) -> Recipe:
        """The recipe with other values; a new length takes the place of the old one, whichever it is given in."""
        none = dict.fromkeys(LENGTH, 0) if _lengths(changes) else {}
        return dataclasses.replace(self, **{**none, **changes})

    def check(self, where: str) -> None:
        """Find values that no training can have.

        Args:
            where: the recipe's name in the suite, for the message.

        Raises:
            KDBenchError: naming the key.
        """
        if self.optimizer not in OPTIMIZERS:
            from timm.optim import list_optimizers  # not at the top: it takes a second

            optimizers = [str(name) for name in list_optimizers()]
            if self.optimizer not in optimizers:
                raise unknown("optimizer", self.optimizer, optimizers, f"in {where}")
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES, f"in {where}")
        if self.epochs and self.updates:
            raise KDBenchError(f"{where} has both 'epochs' and 'updates': take one of them out")
        for key in (self.unit, "batch_size", "evaluate_every"):
            if getattr(self, key) < 1:
                raise KDBenchError(f"{where}.{key} is {getattr(self, key)}, but it must be at least 1")
        for key in ("learning_rate", "momentum", "weight_decay", "decay_rate", "warmup_epochs", "min_learning_rate",
                    "clip_grad", "image_size"):  # fmt: skip
            if not getattr(self, key) >= 0:
                raise KDBenchError(f"{where}.{key} is {getattr(self, key)}, but it must not be negative")
        self._check_warmup(where)
        self._check_stopping(where)
        if self.updates and self.schedule == "step":
            raise KDBenchError(f"{where}.schedule 'step' counts epochs, and the recipe has updates: take 'multistep'")
        if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in self.milestones):
            raise KDBenchError(
                f"{where}.milestones is {list(self.milestones)}: give shares of the training from 0 to 1"
            )

    def _check_stopping(self, where: str) -> None:
        if self.patience < 0 or not 0 <= self.held_out < 1:
            key, wanted = ("patience", "0 or more scores") if self.patience < 0 else ("held_out", "a share below 1")
            raise KDBenchError(f"{where}.{key} is {getattr(self, key)}: give {wanted}")
        if bool(self.patience) != bool(self.held_out):
            has, lacks = ("patience", "held_out = 0.1") if self.patience else ("held_out", "patience = 5")
            raise KDBenchError(f"{where} has {has!r} alone: early stopping needs both, e.g. {lacks}")

    def _check_warmup(self, where: str) -> None:
        if not 0 <= self.warmup_share < 1:
            raise KDBenchError(f"{where}.warmup_share is {self.warmup_share}: give a share of the training below 1")
        if self.warmup_epochs and (self.updates or self.warmup_share):
            other = "warmup_share" if self.warmup_share else "updates"
            raise KDBenchError(
                f"{where}.warmup_epochs counts epochs and stands beside {other}: give warmup_share alone"
            )


def parts(updates: int) -> int:
    """Into how many parts a training of so many updates is cut, on whatever data."""
    return max(1, min(PARTS, updates // SMALLEST))


def length_of(recipe: Mapping[str, Any]) -> int:
    """`Recipe.length` of a record's recipe."""
    return recipe.get("epochs") or parts(recipe.get("updates", 0))


def part(recipe: Mapping[str, Any], number: int) -> tuple[int, int]:
    """`Recipe.part` of a record's recipe."""
    updates, count = recipe["updates"], length_of(recipe)
    return number * updates // count, (number + 1) * updates // count


def overridden(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's table with other values; a new length takes the place of the old one, whichever it is given in."""
    kept = recipe if not _lengths(changes) else {key: value for key, value in recipe.items() if key not in LENGTH}
    return {**kept, **changes}


def _lengths(changes: Mapping[str, Any]) -> list[str]:
    return [key for key in LENGTH if key in changes]

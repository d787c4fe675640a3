"""The recipe: how every method of a suite is trained."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.errors import KDBenchError, unknown

OPTIMIZERS = ("adam", "adamw", "lamb", "lion", "rmsprop", "sgd")  # timm has more: these need no look at its list
# of timm's schedules, those that follow the epoch alone
SCHEDULES = ("cosine", "multistep", "none", "poly", "step", "tanh")


@dataclass(frozen=True)
class Recipe:
    """How every method of a suite is trained.

    Attributes:
        epochs, batch_size, learning_rate, momentum, weight_decay: as usual.
        optimizer: a name that `timm.optim` knows; `sgd` is without Nesterov unless `nesterov`.
        decay_norm_and_bias: whether weight decay reaches norm weights and biases (True in the CIFAR literature).
        schedule: a name that `timm.scheduler` knows (`multistep`, `cosine`, ...).
        milestones: where `multistep` multiplies the rate by `decay_rate`, as shares of the training.
        warmup_epochs, min_learning_rate: of the schedule.
        clip_grad: largest gradient norm, 0 for none.
        augment: training augmentation, e.g. `["pad_crop:4", "flip"]`.
        image_size: side in pixels that the data set is resized to, 0 for its own.
        precision: `auto` follows the device; `fp32`, `bf16` or `tf32` (CUDA) fixes it and is part of the cell.
        pretrained: start from timm's pretrained weights instead of from scratch.
        evaluate_every: score the student on the test set after every so many epochs, and after the last.
    """

    epochs: int
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
        for key in ("epochs", "batch_size", "evaluate_every"):
            if getattr(self, key) < 1:
                raise KDBenchError(f"{where}.{key} is {getattr(self, key)}, but it must be at least 1")
        for key in ("learning_rate", "momentum", "weight_decay", "decay_rate", "warmup_epochs", "min_learning_rate",
                    "clip_grad", "image_size"):  # fmt: skip
            if not getattr(self, key) >= 0:
                raise KDBenchError(f"{where}.{key} is {getattr(self, key)}, but it must not be negative")
        if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in self.milestones):
            raise KDBenchError(
                f"{where}.milestones is {list(self.milestones)}: give shares of the training from 0 to 1"
            )

"""A sweep: how many trials each method gets, how long they are, and what they are scored on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench.errors import KDBenchError

if TYPE_CHECKING:
    from kdbench.suites.grid import Suite

VALIDATION = "validation"  # the protocol that scores on a part of the training set


@dataclass(frozen=True)
class Sweep:
    """What all methods of a suite get alike.

    Attributes:
        trials: of the recipe, and of every method; the first is the suite's own setting.
        share: of the recipe's epochs that a trial lasts.
        seed: of every trial; no result has it.
        fraction: of the training set that the trials are scored on, in place of the test set.
    """

    trials: int = 16
    share: float = 1.0
    seed: int = 1000
    fraction: float = 0.1

    def check(self) -> None:
        """Find values that no sweep can have.

        Raises:
            KDBenchError: naming the key.
        """
        if self.trials < 1:
            raise KDBenchError(f"sweep.trials is {self.trials}: give at least 1")
        if not 0 < self.share <= 1:
            raise KDBenchError(f"sweep.share is {self.share}: give a share of the epochs above 0, and at most 1")
        if not 0 < self.fraction < 1:
            raise KDBenchError(f"sweep.fraction is {self.fraction}: give a share of the training set between 0 and 1")
        if self.seed < 0:
            raise KDBenchError(f"sweep.seed is {self.seed}: give a whole number from 0 up")

    @property
    def table(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    def allow(self, suite: Suite, seeds: Iterable[int] = ()) -> None:
        """Refuse a suite whose results would be chosen by what they are scored on.

        Args:
            seeds: of its results, beside the suite's own.

        Raises:
            KDBenchError: if a result has the trials' seed, or the suite scores on a validation split itself.
        """
        if self.seed in {*suite.seeds, *seeds}:
            raise KDBenchError(
                f"seed {self.seed} is of a result of suite {suite.name!r} and of its trials: choose another by "
                "`seed = N` in the suite's [sweep]"
            )
        for dataset in suite.datasets:
            if VALIDATION in dataset.protocol:
                raise KDBenchError(
                    f"suite {suite.name!r} scores {dataset.name!r} on a validation split itself, which its trials "
                    "would be chosen by: take the protocol `validation` out, a sweep adds its own"
                )


DEFAULT = Sweep()

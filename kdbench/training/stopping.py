"""Early stopping: a training ends when a score on held-out training samples no longer rises, and its best weights stay.

The test set has no part in it: it is scored once, with the weights that were kept. No such run is ranked, since methods
that train for unlike times are not compared by what they learn in the same.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from kdbench.suites.dataset import DatasetSpec
from kdbench.suites.recipe import Recipe
from kdbench.suites.sweep import VALIDATION
from kdbench.tasks.metrics import Metric


class Stopping:
    """Watches one training.

    Args:
        recipe: its `patience`.
        metric: which score is watched.

    Attributes:
        epoch: after which one the score was best; 0 before the first.
        best: that score.
        waited: how many looks ago that was.
        ended: whether there is nothing more to wait for.
    """

    def __init__(self, recipe: Recipe, metric: Metric) -> None:
        self.patience, self.metric = recipe.patience, metric
        self.epoch, self.best, self.waited, self.ended = 0, 0.0, 0, False
        self._weights: list[Mapping[str, Any]] = []

    def look(self, score: float, epoch: int, modules: Sequence[nn.Module], last: bool) -> None:
        """Take one score in; the weights of the best are copied, and put back when the training ends.

        Args:
            epoch: how many epochs are done.
            modules: what trains.
            last: whether the recipe ends here anyway.
        """
        if not self.epoch or self.metric.better(score, than=self.best):
            self.epoch, self.best, self.waited = epoch, score, 0
            self._weights = [copy.deepcopy(module.state_dict()) for module in modules]
        else:
            self.waited += 1
        self.ended = last or self.waited >= self.patience
        if self.ended:
            for module, weights in zip(modules, self._weights, strict=True):
                module.load_state_dict(weights)
            self._weights = []

    def state_dict(self) -> dict[str, Any]:
        names = ("epoch", "best", "waited", "ended")
        return {**{name: getattr(self, name) for name in names}, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights = list(state["weights"])
        for name in ("epoch", "best", "waited", "ended"):
            setattr(self, name, state[name])


def without_held_out(data: DatasetSpec, recipe: Recipe) -> DatasetSpec:
    """The data set whose training part lacks what the recipe holds out, and that is scored on just that.

    Where it is scored on a validation split already (a sweep's trial), that is what is watched.
    """
    if VALIDATION in data.protocol:
        return data
    split = {VALIDATION: {"fraction": recipe.held_out}}
    return dataclasses.replace(data, protocol={**data.protocol, **split}, teacher_protocol=None)

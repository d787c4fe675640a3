"""The metrics of a task, as plain facts: what a score is called, in which unit, which direction is better.

Records, tables, schemas, pages and statistics take their columns from here, so that no other file names a metric. A
task keeps its table in `kdbench/tasks/<task>/metrics.py`; neither torch nor the task's own libraries are imported by
it, so that records can be read where they are not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.registry.applies import OFFERS


@dataclass(frozen=True)
class Metric:
    """One score of what is deployed.

    Attributes:
        name: its key in a record's `result` and its column in a table.
        title: how tables and plots call it, without its unit: `top-1`.
        unit: `%`, `nats`, or nothing.
        meaning: what it is, for the documentation of columns, with its unit.
        higher_is_better: its direction; None where neither is better.
        low, high: the range of its values.
        decimals: as many as are ever shown.
        of_teacher: whether it compares with a teacher's predictions; None in a record without one.
        shown: whether a leaderboard on a page or in a wide terminal has a column of it beside the primary one.
    """

    name: str
    title: str
    unit: str
    meaning: str
    higher_is_better: bool | None = True
    low: float = -math.inf
    high: float = math.inf
    decimals: int = 2
    of_teacher: bool = False
    shown: bool = False

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is: times the score, more is better."""
        return -1 if self.higher_is_better is False else 1

    @property
    def heading(self) -> str:
        """`top-1, %`."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def points(self) -> str:
        """The unit of a difference: percentages differ by points."""
        return "points" if self.unit == "%" else self.unit

    def better(self, score: float, than: float) -> bool:
        """Whether one score is better than another; equal ones are not."""
        return self.sign * score > self.sign * than

    def best(self, scores: Iterable[float]) -> float:
        """The best of several."""
        return self.sign * max(self.sign * score for score in scores)

    def gain(self, score: float, over: float) -> float:
        """By how much a score is better than another; below zero if it is worse."""
        return self.sign * (score - over)


# what else stands beside the scores in a record's curve and result
TAKEN = frozenset({"epoch", "loss", "terms", "seconds", "learning_rate", "updates", "watched", "best_epoch", "extra"})


@dataclass(frozen=True)
class Metrics:
    """All scores of one task, the ranked one first.

    Attributes:
        task: its name in a suite's data set.
        scores: in the order of their columns; the first is primary.
        extra: scores that only some methods have (of several students that train together), under a record's
            `result.extra`.
        recompute: the scores that can be told again from what else a record's `result` keeps; for checks.

    Raises:
        KDBenchError: for a name that a record uses for something else.
    """

    task: str
    scores: tuple[Metric, ...]
    extra: tuple[Metric, ...] = ()
    recompute: Callable[[Mapping[str, Any]], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        for metric in (*self.scores, *self.extra):
            if metric.name in TAKEN:
                raise KDBenchError(
                    f"task {self.task!r} has a metric {metric.name!r}, which is the name of something else in a record:"
                    " give it another name"
                )

    @property
    def primary(self) -> Metric:
        """The one that is ranked."""
        return self.scores[0]

    @property
    def own(self) -> tuple[Metric, ...]:
        """Those that need no teacher, without the primary one."""
        return tuple(metric for metric in self.scores[1:] if not metric.of_teacher)

    @property
    def of_teacher(self) -> tuple[Metric, ...]:
        """Those that compare with a teacher."""
        return tuple(metric for metric in self.scores if metric.of_teacher)

    @property
    def others(self) -> tuple[Metric, ...]:
        """All but the primary one, in the order of their columns."""
        return (*self.own, *self.of_teacher)

    @property
    def shown(self) -> tuple[Metric, ...]:
        """Those that a leaderboard shows beside the primary one."""
        return tuple(metric for metric in self.others if metric.shown)

    @property
    def best_name(self) -> str:
        """The column of the best epoch's primary score."""
        return f"best_{self.primary.name}"

    @property
    def teacher_name(self) -> str:
        """The column of the first teacher's primary score."""
        return f"teacher_{self.primary.name}"


_TABLES: dict[str, Metrics] = {}


def register(metrics: Metrics) -> Metrics:
    """Make this the table of its task; for tasks that kdbench does not bring."""
    _TABLES[metrics.task] = metrics
    return metrics


def of(task: str) -> Metrics:
    """The metrics of a task.

    Raises:
        KDBenchError: if there is no such task.
    """
    if task not in _TABLES:
        name = f"kdbench.tasks.{task}.metrics"
        try:
            there = task.isidentifier() and find_spec(name) is not None
        except ModuleNotFoundError:
            there = False
        if not there:
            raise unknown("task", task, {*_TABLES, *OFFERS})
        register(import_module(name).METRICS)
    return _TABLES[task]


def of_tasks(tasks: Iterable[str]) -> Metrics:
    """The one table of several runs; image classification's where there are none.

    Raises:
        KDBenchError: if they are of several tasks, whose scores cannot stand in one table.
    """
    found = sorted(set(tasks))
    if len(found) > 1:
        raise KDBenchError(f"these runs are of several tasks ({', '.join(found)}): a suite has one, make one of each")
    return of(found[0] if found else "image")

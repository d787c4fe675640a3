"""The one rule by which a trial is chosen, and what a tuned record says of its trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdbench.records import Record
from kdbench.suites.trials import Trials
from kdbench.tasks.metrics import Metric, of

Read = Callable[[str], Record | None]  # a trial's record by its id; None where there is none
Outcome = dict[str, Any]  # of a trial: `values`, `id`, `status`, `score` (None if it is not done), `seconds`


def rule(metric: Metric) -> str:
    """How a trial is chosen, in words."""
    most = "lowest" if metric.sign < 0 else "highest"
    return f"the {most} {metric.title} of the last epoch on the validation split; of equal trials the first"


def outcomes(trials: Trials, read: Read) -> list[Outcome] | None:
    """What came of each trial; None while one is missing. A failed one is a trial without a score."""
    found = []
    for values, cell in zip(trials.values, trials.cells, strict=True):
        record = read(cell.id)
        if record is None:
            return None
        found.append(outcome(values, record))
    return found


def outcome(values: Mapping[str, Any], record: Record) -> Outcome:
    """What came of one trial."""
    done = record["status"] == "done"
    score = record["result"][of(record["cell"]["task"]).primary.name] if done else None
    seconds = record["cost"]["seconds_per_epoch"] * record["cell"]["recipe"]["epochs"] if done else None
    values = {"values": dict(values), "id": record["id"], "status": record["status"]}
    return {**values, "score": score, "seconds": seconds}


def chosen(found: Sequence[Mapping[str, Any]], metric: Metric) -> int | None:
    """The number of the trial that is chosen; None if none has a score."""
    scores = {number: metric.sign * trial["score"] for number, trial in enumerate(found) if trial["score"] is not None}
    return max(scores, key=lambda number: (scores[number], -number)) if scores else None

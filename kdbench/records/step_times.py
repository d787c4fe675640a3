"""What a run's timed steps say: how many times the plain student's step its own steps take.

A record's `cost.step_times` has one entry a phase: `share` (of the training), and the seconds of `student` and `own`,
pair by pair, each pair taken one right after the other; or `reason`, where a phase could not be timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

UNTIMED = "an older kdbench did not time it beside the plain student"


def time_ratio(step_times: Sequence[Mapping[str, Any]] | None) -> tuple[float | None, str]:
    """The median of the pairwise ratios of each phase, averaged over the phases by their share of the training.

    Returns:
        the ratio, or None and why there is none.
    """
    if not step_times:
        return None, UNTIMED
    untimed = next((entry["reason"] for entry in step_times if "reason" in entry), "")
    if untimed:
        return None, untimed
    shares = sum(entry["share"] for entry in step_times)
    medians = [
        statistics.median(own / student for own, student in zip(entry["own"], entry["student"], strict=True))
        for entry in step_times
    ]
    ratios = zip(medians, step_times, strict=True)
    return sum(median * entry["share"] for median, entry in ratios) / shares, ""

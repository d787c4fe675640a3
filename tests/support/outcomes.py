"""What a run leaves behind, as text that can be compared with another run's."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

TIMES = (
    "seconds",
    "step_times",
    "time_ratio",
    "pareto",
    "hardware",
    "finished_at",
    "peak_memory_mb",
    "latency",
    "joules",
)


def without_times(value: object) -> object:
    """A record without what depends on the clock, the machine and the checkout's revision, which may move meanwhile."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k != "git" and not any(word in k for word in TIMES)}
        return {k: without_times(v) for k, v in kept.items()}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict[str, str]:
    """Every record and table as text, times and hardware excepted."""
    texts = {}
    for path in sorted(folder.rglob("records/*.json")):
        texts[str(path.relative_to(folder))] = json.dumps(without_times(json.loads(path.read_text())), sort_keys=True)
    for path in sorted(folder.rglob("*.csv")):
        table = pd.read_csv(path)
        kept = [c for c in table.columns if not any(word in c for word in TIMES)]
        texts[str(path.relative_to(folder))] = table[kept].to_csv(index=False)
    return texts

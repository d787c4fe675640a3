"""The metrics of detection, COCO's; like every table of metrics free of torch.

A size class without objects in the test set has no score: it is None, and no number stands for it.
"""

from __future__ import annotations

from typing import Any

from kdbench.tasks.metrics import Metric, Metrics

_PERCENT: dict[str, Any] = {"unit": "%", "low": 0, "high": 100}
_OVER = "average precision over IoU 0.50 to 0.95"

METRICS = Metrics(
    "detection",
    (
        Metric("ap", "AP", meaning=f"{_OVER}, %", **_PERCENT),
        Metric("ap50", "AP50", meaning="average precision at IoU 0.50, %", shown=True, **_PERCENT),
        Metric("ap75", "AP75", meaning="average precision at IoU 0.75, %", shown=True, **_PERCENT),
        Metric("ap_small", "AP small", meaning=f"{_OVER} of objects below 32x32 px, %", **_PERCENT),
        Metric("ap_medium", "AP medium", meaning=f"{_OVER} of objects from 32x32 to 96x96 px, %", **_PERCENT),
        Metric("ap_large", "AP large", meaning=f"{_OVER} of objects above 96x96 px, %", **_PERCENT),
    ),
)

"""The metrics of image classification."""

from __future__ import annotations

from kdbench.tasks.classification_metrics import classification_metrics

METRICS = classification_metrics("image")

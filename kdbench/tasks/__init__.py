"""Tasks: what differs between images, text, translation and detection, behind one interface.

The loop asks a task for batches, networks, predictions and their scores, and knows nothing else about the data. The
names load torch when first used: who reads records needs `kdbench.tasks.metrics` only, which does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.tasks.task import Task, TrainingSet, create, register_task

__all__ = ["Task", "TrainingSet", "create", "register_task"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kdbench.tasks' has no attribute {name!r}")
    return getattr(import_module("kdbench.tasks.task"), name)

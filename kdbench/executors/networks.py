"""Networks are built once before anything trains: a wrong name in the last pair costs nobody the hours before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdbench.suites.grid import Cell
from kdbench.tasks.task import Task


def check_networks(task: Task, cells: Sequence[Cell]) -> None:
    """Build each network that cells on one data set train or learn from, and let it go.

    Raises:
        KDBenchError: for a name that no network has, or options that it does not take.
    """
    names = dict.fromkeys(name for cell in cells for name in (*(t.network for t in cell.teachers), cell.pair.student))
    for name in names:
        with torch.random.fork_rng(devices=[]):  # what trains next draws as if nothing had been built
            task.network(name)

"""Milliseconds of a call as a device spends them, and how much of that time it computes."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.paced import synchronize
from kdbench.hardware import memory


def milliseconds(call: Callable[[], object], device: torch.device, warm: int, count: int) -> float:
    """The median of `count` calls one after the other, after `warm` that are not timed; on CUDA by events."""
    for _ in range(warm):
        call()
    synchronize(device)
    if device.type != "cuda":
        spent = []
        for _ in range(count):
            begin = time.perf_counter()
            call()
            spent.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(spent)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    synchronize(device)
    return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(marks))


def busy(call: Callable[[], object], device: torch.device, ms: float) -> dict[str, float | None]:
    """Kernels of a call and the share of its time in which the GPU computes; None elsewhere.

    Args:
        ms: of a call without the profiler, which makes the host slower and no kernel.
    """
    if device.type != "cuda":
        return {"kernels": None, "busy": None}
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as taken:
            call()
            synchronize(device)
    except RuntimeError:  # a machine may keep its counters to itself
        return {"kernels": None, "busy": None}
    kernels = [event for event in taken.events() if event.device_type == DeviceType.CUDA]
    spent = sum(event.device_time_total for event in kernels) / 1e3
    return {"kernels": len(kernels), "busy": spent / ms}


@dataclass
class Peak:
    """MiB of a device that torch reserves at most; None on a CPU."""

    mb: float | None = None


@contextmanager
def peak_of(device: torch.device) -> Iterator[Peak]:
    """Of a block, beyond what was reserved and in use before it."""
    found = Peak()
    if device.type != "cuda":
        yield found
        return
    memory.release(device)
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield found
    found.mb = (torch.cuda.max_memory_reserved(device) - before) / 2**20

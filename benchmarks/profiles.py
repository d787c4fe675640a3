"""Where the time goes: by operation (torch's profiler), and by function of the engine (Python's)."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

import kdbench

ENGINE = Path(kdbench.__file__).parent
# what these do is the step itself: networks, losses, layers
NOT_ENGINE = ("networks", "losses.py", "connectors.py")


def by_operation(step: Callable[[], object], most: int = 12) -> list[tuple[str, float]]:
    """The operations that take the largest shares of a step's time on the CPU, and what is left."""
    with profile(activities=[ProfilerActivity.CPU]) as taken:
        step()
    events = sorted(taken.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events) or 1.0
    shares = [(event.key, event.self_cpu_time_total / total) for event in events[:most]]
    return [*shares, ("all others", max(0.0, 1 - sum(share for _, share in shares)))]


def by_engine_function(run: Callable[[int], object], steps: int, most: int = 12) -> list[tuple[str, float]]:
    """Seconds a step in the engine's own functions, the longest first.

    A function's time is its own and that of the code it calls outside kdbench, as far as no network, loss, backward
    pass or optimizer is behind it. The profiler itself makes every call slower: the numbers show what is long, not how
    long it is.
    """
    profiler = cProfile.Profile()
    profiler.runcall(run, steps)
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    seconds: dict[str, float] = {}
    for (file, _, name), (_, _, own, _, _) in stats.items():
        if _of_engine(file):
            place = f"{Path(file).relative_to(ENGINE)}: {name}"
            seconds[place] = seconds.get(place, 0.0) + own
    for (file, _, name), (_, _, _, _, callers) in stats.items():
        if _of_engine(file) or _is_the_step(file, name):
            continue
        for (caller, _, function), (_, _, _, cumulative) in callers.items():
            if _of_engine(caller):
                place = f"{Path(caller).relative_to(ENGINE)}: {function}"
                seconds[place] = seconds.get(place, 0.0) + cumulative
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:most]
    return [(place, total / steps) for place, total in longest]


def _of_engine(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(ENGINE) and path.relative_to(ENGINE).parts[0] not in NOT_ENGINE


def _is_the_step(file: str, name: str) -> bool:
    """Forward, backward, optimizer and loss, as the engine calls them."""
    modules = ("torch/nn/modules", "torch/optim", "torch/_tensor.py", "torch/autograd", "methods", "networks")
    return any(part in file for part in modules) or name in ("backward", "step", "loss", "forward")

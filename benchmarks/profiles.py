"""Where the time goes: by operation (torch's profiler), and by function of the engine (Python's hook)."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from torch.profiler import ProfilerActivity, profile

import kdbench

ENGINE = Path(kdbench.__file__).parent
METHODS = ENGINE.parent / "methods"
# of the package, but the step itself: what networks and losses compute
NOT_ENGINE = ("networks", "losses.py", "connectors.py")
GENERATED = "generated kernels"  # of all compiled graphs: torch names them by hashes
STEP = "forward, loss, backward, update"


def by_operation(step: Callable[[], object], most: int = 12) -> list[tuple[str, float]]:
    """The operations that take the largest shares of a step's time on the CPU, and the share of all others."""
    with profile(activities=[ProfilerActivity.CPU]) as taken:
        step()
    times: Counter[str] = Counter()
    for event in taken.key_averages():
        name = GENERATED if "CompiledFxGraph" in event.key else event.key
        times[name] += event.self_cpu_time_total
    total = times.total() or 1.0
    shares = [(name, seconds / total) for name, seconds in times.most_common(most)]
    return [*shares, ("all others", max(0.0, 1 - sum(share for _, share in shares)))]


def by_engine_function(run: Callable[[int], object], steps: int, most: int = 10) -> list[tuple[str, float]]:
    """Seconds a step in each of the engine's functions, the longest first, and in the step itself.

    A library's time counts for the function that called it. Watching makes every call slower: this shows what is long,
    not how long it is.
    """
    watch = _Watch()
    sys.setprofile(watch)
    try:
        run(steps)
    finally:
        sys.setprofile(None)
    longest = sorted(watch.seconds.items(), key=lambda item: -item[1])
    return [(place, seconds / steps) for place, seconds in longest[:most]]


class _Watch:
    """Adds the time between two events to the innermost place that is known.

    Attributes:
        seconds: by place.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._places = ["the benchmark"]
        self._since = time.perf_counter()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        now = time.perf_counter()
        place = self._places[-1]
        self.seconds[place] = self.seconds.get(place, 0.0) + now - self._since
        if event == "call":
            self._places.append(_place(frame) or place)
        elif event == "return" and len(self._places) > 1:
            self._places.pop()
        self._since = time.perf_counter()


def _place(frame: FrameType) -> str | None:
    """The engine's function or the step; None for a library's, which counts for its caller."""
    file, name = frame.f_code.co_filename, frame.f_code.co_name
    path = Path(file) if "kdbench" in file or "methods" in file else None
    if path is not None and path.is_relative_to(ENGINE):
        inside = path.relative_to(ENGINE)
        return STEP if inside.parts[0] in NOT_ENGINE else f"{inside}: {name}"
    called = name in ("_wrapped_call_impl", "backward") or "/torch/optim/" in file.replace("\\", "/")
    return STEP if called or (path is not None and path.is_relative_to(METHODS)) else None

"""Seconds of work, as a device counts them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, from an idle device to its end."""
    _wait(device)
    begin = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Sums the seconds between `start` and `stop`; on CUDA by events, so that timing never makes the device wait."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._started: Any = None
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        self._started = self._event() if self._cuda else time.perf_counter()

    def stop(self) -> None:
        if self._cuda:
            self._spans.append((self._started, self._event()))
        else:
            self._seconds += time.perf_counter() - self._started

    def read(self) -> float:
        """The seconds since the last `read`."""
        if self._spans:
            torch.cuda.synchronize()
        seconds = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._spans) / 1000
        self._seconds, self._spans = 0.0, []
        return seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

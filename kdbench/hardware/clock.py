"""Seconds of work, as a device counts them."""

from __future__ import annotations

import time
from collections import deque
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


PENDING = 100  # spans of a clock; an epoch has many times as many, and each keeps two events of the driver


class Clock:
    """Sums the seconds between `start` and `stop`; on CUDA by events, so that timing never makes the device wait."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._seconds = 0.0
        self._started: Any = None
        self._spans: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def start(self) -> None:
        self._started = self._event() if self._cuda else time.perf_counter()

    def stop(self) -> None:
        if self._cuda:
            self._spans.append((self._started, self._event()))
            while len(self._spans) > PENDING and self._spans[0][1].query():
                self._fold()
        else:
            self._seconds += time.perf_counter() - self._started

    def read(self) -> float:
        """The seconds since the last `read`."""
        if self._spans:
            torch.cuda.synchronize(self._device)
        while self._spans:
            self._fold()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _fold(self) -> None:
        """Add the oldest span, which the device has finished."""
        begin, end = self._spans.popleft()
        self._seconds += begin.elapsed_time(end) / 1000

    @contextmanager
    def running(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

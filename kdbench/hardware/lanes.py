"""Streams of a GPU beside its main one, and graphs of what is run on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch


class Graph(Protocol):
    """Work that was captured, to be done again on the same memory."""

    def replay(self) -> None: ...


class Lanes(Protocol):
    """Streams by their numbers; `CudaLanes` has real ones.

    Attributes:
        count: how many there are.
    """

    count: int

    def fork(self) -> None:
        """What is put on a lane from now on begins after what the main stream has been given so far."""

    def on(self, lane: int) -> AbstractContextManager[None]:
        """A block whose work goes onto a lane."""
        ...

    def capture(self, lane: int) -> AbstractContextManager[Graph]:
        """A block whose work, on a lane, is captured and not done. Whatever the host would wait for raises."""
        ...

    def join(self) -> None:
        """What the main stream is given from now on begins after what the lanes have been given so far."""


class CudaLanes:
    """Streams of a CUDA device. Graphs of one lane follow one another, and so share the memory they work in."""

    def __init__(self, device: torch.device, count: int) -> None:
        self.count, self._device = count, device
        self._streams = [torch.cuda.Stream(device) for _ in range(count)]
        self._pools = [torch.cuda.graph_pool_handle() for _ in range(count)]
        self._ready = torch.cuda.Event()
        self._used: set[int] = set()

    def fork(self) -> None:
        self._ready.record(torch.cuda.current_stream(self._device))

    @contextmanager
    def on(self, lane: int) -> Iterator[None]:
        stream = self._streams[lane]
        if lane not in self._used:
            stream.wait_event(self._ready)
            self._used.add(lane)
        with torch.cuda.stream(stream):
            yield

    @contextmanager
    def capture(self, lane: int) -> Iterator[Graph]:
        graph, stream = torch.cuda.CUDAGraph(), self._streams[lane]
        # only this thread's calls are held to the rules of a capture: another one writes checkpoints
        with torch.cuda.graph(graph, pool=self._pools[lane], stream=stream, capture_error_mode="thread_local"):
            yield graph

    def join(self) -> None:
        main = torch.cuda.current_stream(self._device)
        for lane in sorted(self._used):
            main.wait_stream(self._streams[lane])
        self._used.clear()

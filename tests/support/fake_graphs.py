"""CUDA's graphs and streams on a CPU.

A capture writes down the operators that are run, and undoes what they did; a replay runs them again on the same
memory, as the device would: what Python decided stays as it was at the capture. Streams are a list of what happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# what a capturing stream refuses, since the host would wait for it
REFUSED = frozenset(
    {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "bincount", "unique_dim"}
)

RESHAPING = frozenset({"squeeze_", "unsqueeze_", "transpose_", "t_"})


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _where(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class FakeGraph(TorchDispatchMode):
    """One capture.

    Attributes:
        replays: how often it was replayed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replays = 0
        self._work: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []
        self._made: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.partition("::")[2]
        if name in REFUSED:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        given = _tensors((args, kwargs))
        writes = func._schema.is_mutable or name == "native_batch_norm"  # whose schema says nothing of its statistics
        if writes:
            for tensor in given:
                self._remember(tensor)
        # aliases, since a tensor's shape may be changed in place later
        kept = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        result = func(*args, **kwargs)
        places = {_where(tensor) for tensor in given}
        out = [(n, t.detach()) for n, t in enumerate(_tensors(result)) if _where(t) not in places or not t.numel()]
        if (out or writes) and name not in RESHAPING:  # a view is where it was
            self._work.append((func, *kept, out))
        self._made.update({_where(tensor): tensor for _, tensor in out})
        return result

    def _remember(self, tensor: Tensor) -> None:
        place = _where(tensor)
        if place not in self._made and place not in self._before:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self._before[place] = whole, whole.clone()

    def undo(self) -> None:
        """Captured work is not done."""
        for whole, before in self._before.values():
            whole.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self._work:
            found = _tensors(func(*args, **kwargs))
            for number, tensor in out:
                tensor.detach().copy_(found[number])


class FakeLanes:
    """Streams that run everything at once.

    Attributes:
        happened: what the streams were asked for, in order.
        graphs: all captures.
        refuse: what a capture raises, if anything.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.happened: list[tuple[str, int]] = []
        self.graphs: list[FakeGraph] = []
        self.refuse: Exception | None = None

    def fork(self) -> None:
        self.happened.append(("fork", -1))

    @contextmanager
    def on(self, lane: int) -> Iterator[None]:
        self.happened.append(("on", lane))
        yield

    @contextmanager
    def capture(self, lane: int) -> Iterator[FakeGraph]:
        self.happened.append(("capture", lane))
        graph = FakeGraph()
        try:
            with graph:
                yield graph
                if self.refuse:
                    raise self.refuse
        finally:
            graph.undo()
        self.graphs.append(graph)

    def join(self) -> None:
        self.happened.append(("join", -1))

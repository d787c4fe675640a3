"""A state as it was at one moment, so that training goes on while it is written: its tensors lie side by side in one
copy for each device and dtype, on their way to the host."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdbench.records.checkpoints import State, unstorable

Kind = tuple[torch.device, torch.dtype]


class _Place(NamedTuple):
    """Where a tensor lies in the copy of its kind; `stride` is in numbers, as the tensor's own."""

    kind: Kind
    start: int
    size: torch.Size
    stride: tuple[int, ...]


class Snapshot:
    """A copy of a state. Nothing waits for the device until `state` is asked for.

    Args:
        state: containers, numbers and tensors, as checkpoints hold them.

    Raises:
        TypeError: for what no checkpoint can hold.
    """

    @torch.no_grad()
    def __init__(self, state: State) -> None:
        if strange := next(unstorable(state), None):
            raise TypeError(f"the state has {strange}, which no checkpoint can hold")
        self.epoch: int = state["epoch"]
        self._rows: dict[Kind, list[Tensor]] = {}
        self._sizes: dict[Kind, int] = {}
        self._seen: dict[tuple[Any, ...], _Place] = {}  # two names of one tensor have one place
        self._tree = self._kept(state)
        self._copies = {kind: torch.cat(rows) for kind, rows in self._rows.items()}
        self._rows.clear()
        self._seen.clear()
        self._host = {kind: _sent_home(copy) for kind, copy in self._copies.items()}
        devices = {device for device, _ in self._copies if device.type == "cuda"}
        self._events = [_recorded(device) for device in devices]

    def state(self) -> State:
        """The state, in tensors of the host that share no memory, strided as they were."""
        for event in self._events:
            event.synchronize()
        return self._given(self._tree)

    def _kept(self, value: Any) -> Any:
        """A copy of a value with places in place of its tensors."""
        if isinstance(value, Tensor):
            return self._placed(value)
        if type(value) is OrderedDict:
            copy = OrderedDict((key, self._kept(inner)) for key, inner in value.items())
            vars(copy).update(vars(value))  # `_metadata`: the versions of a module's layers
            return copy
        if type(value) is dict:
            return {key: self._kept(inner) for key, inner in value.items()}
        if type(value) in (list, tuple, set):
            return type(value)(self._kept(inner) for inner in value)
        return value

    def _placed(self, tensor: Tensor) -> Any:
        if type(tensor) is not Tensor or tensor.requires_grad or not _in_one_piece(tensor):
            return _copied(tensor)
        key = tensor.data_ptr(), tensor.dtype, tensor.size(), tensor.stride()
        if key not in self._seen:
            kind = tensor.device, tensor.dtype
            start = self._sizes.get(kind, 0)
            self._sizes[kind] = start + tensor.numel()
            row = tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())  # as it lies in memory
            self._rows.setdefault(kind, []).append(row)
            self._seen[key] = _Place(kind, start, tensor.size(), tensor.stride())
        return self._seen[key]

    def _given(self, value: Any) -> Any:
        if isinstance(value, _Place):
            there = self._host[value.kind].as_strided(value.size, value.stride, value.start)
            return torch.empty_strided(value.size, value.stride, dtype=there.dtype).copy_(there)
        if type(value) is OrderedDict:
            copy = OrderedDict((key, self._given(inner)) for key, inner in value.items())
            vars(copy).update(vars(value))
            return copy
        if type(value) is dict:
            return {key: self._given(inner) for key, inner in value.items()}
        if type(value) in (list, tuple, set):
            return type(value)(self._given(inner) for inner in value)
        return value


def _in_one_piece(tensor: Tensor) -> bool:
    """Whether a tensor's numbers fill a stretch of memory, in whatever order of its axes."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        return False
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.size(), strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return tensor.numel() > 0


def _copied(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def _sent_home(copy: Tensor) -> Tensor:
    """The same numbers on the host; of a GPU's they arrive later, in memory that it can write by itself."""
    if copy.device.type != "cuda":
        return copy.cpu()
    return torch.empty(copy.shape, dtype=copy.dtype, pin_memory=True).copy_(copy, non_blocking=True)


def _recorded(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event

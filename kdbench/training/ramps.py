"""Which of the engine's numbers a method reads in a step, and a ramp's number as one of the device's.

A captured step holds every number that Python gave it as a constant. So a graph serves for as long as those numbers
stay: the epoch for methods that read it. What `Method.warmup` gives is put on the device instead, where it can change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kdbench.method import Method

EPOCH = "epoch"
Read = tuple[Method, str | float]  # of which method (a composition has several): the epoch, or a ramp by its share
HALF = (torch.bfloat16, torch.float16)


class Reads:
    """What a method reads of the training's progress.

    Attributes:
        on_host: what decided in Python, so that a graph holds it as a constant.
        ramps: of each ramp that was read, the number on the device.
    """

    def __init__(self) -> None:
        self.on_host: set[Read] = set()
        self.ramps: dict[tuple[Method, float], Tensor] = {}

    @contextmanager
    def noted(self, method: Method, device: torch.device | None = None) -> Iterator[None]:
        """A block in which it is noted what a method reads.

        Args:
            device: where ramps are given as numbers of the device; None: as floats, as ever.
        """
        parts = [module for module in method.modules() if isinstance(module, Method)]
        kinds = [type(part) for part in parts]
        for part, kind in zip(parts, kinds, strict=True):
            part.__class__ = self._noting(kind, device)
        try:
            yield
        finally:
            for part, kind in zip(parts, kinds, strict=True):
                part.__class__ = kind

    def values(self) -> tuple[float, ...]:
        """What was read on the host, as it is now, in a fixed order."""
        reads = sorted(self.on_host, key=lambda read: (id(read[0]), str(read[1])))
        return tuple(float(part.epoch if what == EPOCH else part.warmup(what)) for part, what in reads)  # type: ignore[arg-type]

    def fill(self) -> None:
        """Give the device the ramps' numbers of this epoch; it does not wait for them."""
        for (part, share), number in self.ramps.items():
            number.fill_(part.warmup(share))

    def _noting(self, kind: type[Method], device: torch.device | None) -> type[Method]:
        reads, quiet = self, list[bool]()

        def get(part: Method, name: str) -> Any:
            if name == EPOCH and not quiet:
                reads.on_host.add((part, EPOCH))
            return kind.__getattribute__(part, name)

        def warmup(part: Method, share: float) -> Any:
            quiet.append(True)
            try:
                value = kind.warmup(part, share)
            finally:
                quiet.pop()
            if device is None:
                return value
            key = part, share
            if key not in reads.ramps:
                raise KeyError(f"the ramp over {share} of the epochs was not read in the steps before")
            return Ramp(value, reads.ramps[key], lambda: reads.on_host.add(key))

        def noting_warmup(part: Method, share: float) -> Any:
            reads.ramps.setdefault((part, share), torch.zeros((), dtype=torch.float64))
            return warmup(part, share)

        chosen = noting_warmup if device is None else warmup
        return type(kind.__name__, (kind,), {"__getattribute__": get, "warmup": chosen, "__module__": kind.__module__})

    def place(self, device: torch.device) -> None:
        """Put the ramps that were read on the device, before a capture."""
        self.ramps = {key: number.to(device) for key, number in self.ramps.items()}
        self.fill()


class Ramp:
    """A float inside a captured step, as a number of the device: products with it round as those with the float.

    Whatever else is done with it is done with the float, which `read` is told of.

    Args:
        number: float64, without axes.
    """

    def __init__(self, value: float, number: Tensor, read: Callable[[], object]) -> None:
        self._value, self._number, self._read = value, number, read

    def __float__(self) -> float:
        self._read()
        return self._value

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Tensor):
            return self._times(other)
        if isinstance(other, Ramp):
            return Ramp(self._value * other._value, self._number * other._number, self._read_both(other))
        if isinstance(other, int | float):
            return Ramp(self._value * other, self._number * other, self._read)
        return NotImplemented

    __rmul__ = __mul__

    def _read_both(self, other: Ramp) -> Callable[[], object]:
        return lambda: (self._read(), other._read())

    def _times(self, other: Tensor) -> Tensor:
        """As torch multiplies by a float: it is rounded to the tensor's precision, to float32 for half ones."""
        if other.dtype in HALF:
            return (other.float() * self._number.float()).to(other.dtype)
        if other.is_floating_point():
            return other * self._number.to(other.dtype)
        return other * float(self)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__) and not kwargs:
            left, right = args
            return right._times(left) if isinstance(right, cls) and isinstance(left, Tensor) else left * right
        plain = [float(value) if isinstance(value, cls) else value for value in args]
        named = {key: float(value) if isinstance(value, cls) else value for key, value in (kwargs or {}).items()}
        return func(*plain, **named)


def _by_the_float(name: str) -> Callable[..., Any]:
    def operation(ramp: Ramp, *others: Any) -> Any:
        return getattr(float(ramp), name)(*[float(o) if isinstance(o, Ramp) else o for o in others])

    return operation


for _name in ("add", "sub", "truediv", "pow"):
    for _side in ("", "r"):
        setattr(Ramp, f"__{_side}{_name}__", _by_the_float(f"__{_side}{_name}__"))
for _name in ("neg", "abs", "bool", "lt", "le", "gt", "ge", "eq", "ne", "round", "hash"):
    setattr(Ramp, f"__{_name}__", _by_the_float(f"__{_name}__"))

"""What a step does on the host: a captured one would do it once and never again.

Looked at are the random numbers of the host, and all that the students, the method and the optimizer keep in Python:
numbers, containers, which tensors they hold, and what stands in tensors of the host.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device, torch.Size)
DEEPEST = 8


class Host:
    """The host's side of some modules and their optimizer, as it is now.

    Args:
        modules: by what they are in a sentence.
        device: of the training; what a tensor holds there is the step's own work.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self._modules, self._optimizer, self._device = modules, optimizer, device
        self._kept = dict(self._parts())
        self._random = _streams()

    def changed(self) -> str:
        """What has changed since, in words, or nothing."""
        if _streams() != self._random:
            return "it draws random numbers on the host"
        now = dict(self._parts())
        for name in [*self._kept, *now]:
            if name not in now or name not in self._kept or not _alike(self._kept[name], now[name]):
                return f"it changes {name!r} on the host"
        return ""

    def _parts(self) -> Iterator[tuple[str, Any]]:
        for root, whole in self._modules.items():
            for path, module in whole.named_modules(prefix=root):
                for name, value in vars(module).items():
                    if name != "_modules":
                        yield from self._leaves(f"{path}.{name}", value, frozenset())
        for name in ("state", "param_groups"):
            yield from self._leaves(f"optimizer.{name}", getattr(self._optimizer, name), frozenset())

    def _leaves(self, path: str, value: Any, seen: frozenset[int], depth: int = 0) -> Iterator[tuple[str, Any]]:
        if isinstance(value, PLAIN):
            yield path, value
        elif isinstance(value, Tensor):
            yield path, (_Same(value), value._version if value.device.type != self._device.type else 0)
        elif isinstance(value, nn.Module) or id(value) in seen or depth == DEEPEST:
            yield path, _Same(value)
        else:
            yield from self._inside(path, value, seen | {id(value)}, depth + 1)

    def _inside(self, path: str, value: Any, seen: frozenset[int], depth: int) -> Iterator[tuple[str, Any]]:
        parts: list[tuple[Any, Any]]
        if isinstance(value, torch.Generator):
            yield path, value.get_state().numpy().tobytes()
            return
        if isinstance(value, set | frozenset):
            yield path, frozenset(map(id, value))
            return
        if isinstance(value, dict):
            # tensors as keys, as an optimizer has them, go by their places
            parts = [(key if isinstance(key, PLAIN) else n, part) for n, (key, part) in enumerate(value.items())]
        elif isinstance(value, list | tuple):
            parts = list(enumerate(value))
        elif callable(value) or not hasattr(value, "__dict__"):
            yield path, _Same(value)
            return
        else:
            parts = list(vars(value).items())
        yield f"{path} (its size)", len(parts)
        for name, part in parts:
            yield from self._leaves(f"{path}.{name}", part, seen, depth)


class _Same:
    """An object that is held, so that no other one gets its id, and compared by what it is."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.held is self.held

    __hash__ = object.__hash__


def _alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _streams() -> tuple[Any, ...]:
    """Where the host's random numbers stand."""
    numbers: Any = np.random.get_state()
    torchs = torch.default_generator.get_state().numpy().tobytes()
    return random.getstate(), numbers[1].tobytes(), numbers[2:], torchs

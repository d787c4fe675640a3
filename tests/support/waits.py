"""Counts where an accelerator would make its host wait, on a CPU: by the operators that are run, and by what is asked
of tensors in Python.

A `TorchDispatchMode` sees every operator, those of the backward pass too; a `TorchFunctionMode` sees what a CPU has no
operator for, such as a copy to a device that is the CPU itself, or `tolist`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

# operators whose result, or whose size, the host needs before it goes on; factorisations read whether they succeeded
OPERATORS = frozenset(
    {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "argwhere", "masked_select", "bincount", "histc"}
    | {"_unique", "_unique2", "unique_dim", "unique_consecutive"}
    | {"_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq", "geqrf"}
)
INDEXED = frozenset(["index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"])
READ = frozenset({Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__, Tensor.__contains__})
MADE_OF_NUMBERS = frozenset({torch.tensor, torch.as_tensor, Tensor.new_tensor})
LOOKED_AT = (
    _device_constructors()
    | READ
    | MADE_OF_NUMBERS
    | {Tensor.to, Tensor.copy_, Tensor.type_as, Tensor.__getitem__, Tensor.__setitem__, F.one_hot}
)


def is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


class _Operators(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        kwargs = kwargs or {}
        if name in OPERATORS:
            self.note(name)
        if name in INDEXED and any(is_mask(index) for index in args[1]):
            self.note(f"{name} by a mask")
        if name == "repeat_interleave" and func._overloadname == "Tensor":
            self.note(name)
        if name == "multinomial":  # with replacement the kernel checks; else the host does
            count, replacement = args[1], args[2] if len(args) > 2 else kwargs.get("replacement", False)
            if count == 1 or not replacement:
                self.note(name)
        return func(*args, **kwargs)


class Waits(TorchFunctionMode):
    """Notes each wait within its context, which may be entered again.

    A tensor is of the host if it was made without a device, or with the word `"cpu"`; methods name a tensor's device.

    Attributes:
        found: how often, by what it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._host: dict[int, Tensor] = {}  # tensors are kept, so that no id comes twice
        self._quiet = 0
        self._operators = _Operators(self._note)

    def __enter__(self) -> Waits:
        super().__enter__()
        self._operators.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._operators.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def _note(self, what: str) -> None:
        if not self._quiet:
            self.found[what] += 1

    def made_on_host(self, *tensors: Tensor) -> None:
        """Take these for tensors of the host."""
        self._host.update({id(tensor): tensor for tensor in tensors})

    def _on_host(self, value: object) -> bool:
        return id(value) in self._host

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._host and func not in LOOKED_AT:
            return func(*args, **kwargs)
        tensors = [x for x in _flat((args, kwargs)) if isinstance(x, Tensor)]
        host = [x for x in tensors if self._on_host(x)]
        only_host = bool(tensors) and len(host) == len(tensors)
        placed = kwargs.get("device") not in (None, "cpu")
        moves = not only_host or placed or any(isinstance(x, torch.device) for x in args)
        if func in MADE_OF_NUMBERS and (placed or func is Tensor.new_tensor):
            self._note("numbers copied to the device")
        elif func in (Tensor.to, Tensor.copy_, Tensor.type_as) and host and moves:
            if not kwargs.get("non_blocking"):
                self._note("copied to the device")
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and not self._on_host(args[0]):
            self._index(args, host)
        elif func in READ and not only_host:
            self._note(func.__name__)
        elif host and not only_host and any(x.dim() for x in host):
            self._note(f"{getattr(func, '__name__', func)} of both devices")
        checked_on_cpus = func is F.one_hot and (len(args) > 1 or "num_classes" in kwargs)
        self._quiet += only_host or checked_on_cpus
        try:
            result = func(*args, **kwargs)
        finally:
            self._quiet -= only_host or checked_on_cpus
        made = func in _device_constructors() and not tensors and not placed
        if made or (only_host and not (func is Tensor.to and moves)):
            self.made_on_host(*(x for x in _flat(result) if isinstance(x, Tensor)))
        elif func is Tensor.cpu:
            result = result.view_as(result)  # a CPU's copy to a CPU is the tensor itself
            self.made_on_host(result)
        elif host and moves and func is Tensor.to and self._on_host(result):
            result = result.view_as(result)
        return result

    def _index(self, args: Sequence[Any], host: Sequence[Tensor]) -> None:
        """Lists, and tensors of the host, are copied to the device; so is a number that replaces a single element."""
        places = args[1] if isinstance(args[1], tuple) else (args[1],)
        if any(isinstance(place, list) or any(place is x for x in host) for place in places):
            self._note("an index copied to the device")
        if len(args) > 2 and not isinstance(args[2], Tensor):
            exact = any(isinstance(place, Tensor) for place in places)
            self._quiet += 1
            copied = exact or args[0][args[1]].dim() == 0
            self._quiet -= 1
            if copied:
                self._note("a number copied to the device")


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return [x for item in value for x in _flat(item)]
    return [value]

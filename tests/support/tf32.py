"""Matrix products as a GPU's TF32 has them, on a CPU: of float32 factors 10 bits of the mantissa are left.

`outside_autocast` rounds what a method multiplies where it leaves autocast, forward and backward: there it means to
have float32. What it multiplies under autocast is in bfloat16 on a GPU, and rougher on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = frozenset(
    {Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm, torch.matmul, torch.mm, torch.bmm}
    | {torch.einsum, torch.addmm, torch.baddbmm, F.linear, F.conv1d, F.conv2d, torch.conv2d}
)
DROPPED = 13  # bits of float32's 23


def rounded(x: Any) -> Any:
    """A float32 matrix with 10 bits of mantissa, to nearest, ties to even; a bias, or anything else, as it is."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.dim() < 2:
        return x
    bits = x.detach().contiguous().view(torch.int32)
    half = (1 << (DROPPED - 1)) - 1
    kept = (bits + half + ((bits >> DROPPED) & 1)) & ~((1 << DROPPED) - 1)
    return kept.view(torch.float32).reshape(x.shape)


class _Product(torch.autograd.Function):
    """A product of rounded factors; in the backward pass the incoming gradient is rounded too."""

    @staticmethod
    def forward(ctx: Any, func: Any, kwargs: Any, *args: Any) -> Tensor:
        ctx.func, ctx.kwargs, ctx.values = func, kwargs, args
        return func(*map(rounded, args), **kwargs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        with torch.enable_grad():
            values = [rounded(x) for x in ctx.values]
            values = [x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in values]
            places = [i for i, x in enumerate(values) if isinstance(x, Tensor) and x.requires_grad]
            found = torch.autograd.grad(ctx.func(*values, **ctx.kwargs), [values[i] for i in places], rounded(gradient))
        by_place = dict(zip(places, found, strict=True))
        return None, None, *(by_place.get(i) for i in range(len(values)))


class _Rounds(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS and args[0] is not None:
            return _Product.apply(func, kwargs or {}, *args)
        return func(*args, **(kwargs or {}))


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Within it, what leaves autocast multiplies in TF32."""
    real = torch.autocast

    class Left(real):  # type: ignore[misc,valid-type]
        def __init__(self, device: str, dtype: torch.dtype | None = None, enabled: bool = True) -> None:
            super().__init__(device, dtype=dtype, enabled=enabled)
            self.rounds = None if enabled else _Rounds()

        def __enter__(self) -> Any:
            if self.rounds is not None:
                self.rounds.__enter__()
            return super().__enter__()

        def __exit__(self, *error: Any) -> Any:
            left = super().__exit__(*error)
            if self.rounds is not None:
                self.rounds.__exit__(*error)
            return left

    torch.autocast = Left  # type: ignore[misc]
    try:
        yield
    finally:
        torch.autocast = real  # type: ignore[misc]

"""Finds the operators whose gradient a GPU adds up in a random order, while they run on a CPU.

They are those of the list of `torch.use_deterministic_algorithms` that resize maps. Pooling to a size that divides the
old one is in order: no two cells share a place.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

INTERPOLATION = ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d", "_bilinear2d_aa", "_bicubic2d_aa")
OPERATORS = {f"{'_' * kind.startswith('_')}upsample_{kind.lstrip('_')}_backward" for kind in INTERPOLATION}
POOLING = {"_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward"}
OTHERS = {"grid_sampler_2d_backward", "reflection_pad2d_backward", "replication_pad2d_backward"}


class UnorderedSums(TorchDispatchMode):
    """Notes each within its context.

    Attributes:
        found: how often, by operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        shared = name in POOLING and any(
            old % new for new, old in zip(args[0].shape[-2:], args[1].shape[-2:], strict=True)
        )
        if shared or name in OPERATORS | OTHERS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

"""Equal bits on CUDA: kernels that add in a fixed order, and a note of the operators that have none.

Without this cuBLAS, cuDNN and inductor choose kernels as they go, inductor even by a stopwatch, and some kernels add in
the order in which their threads arrive. A CPU does none of it, so that nothing here concerns one.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORKSPACES = (":4096:8", ":16:8")  # the sizes with which cuBLAS promises equal bits
HELD = "torch.use_deterministic_algorithms, cuBLAS workspace {}"
# what torch says of an operator that has no such kernel, where it only warns; its name comes first
_SAID = re.compile(r"(.+?) (?:does not have a deterministic implementation|defaults to a non-deterministic algorithm)")
_noted: set[str] = set()


def fix_order() -> None:
    """Have equal sums computed in one order, before the first product on the device; what cannot is noted.

    A workspace that the user has chosen for cuBLAS stays. Operators without such a kernel compute as ever.
    """
    os.environ.setdefault(WORKSPACE, WORKSPACES[0])
    torch.use_deterministic_algorithms(True, warn_only=True)  # inductor, too, then chooses without a stopwatch
    # only for finding faults, at a price
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_warn_always(True)  # attention's kernels would only tell of the first learner's
    warnings.filterwarnings("always", message=_SAID.pattern, category=UserWarning)
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores", category=UserWarning)  # off on purpose
    if not isinstance(warnings.showwarning, _Listener):
        warnings.showwarning = _Listener(warnings.showwarning)


class _Listener:
    """Notes which operator a warning is about; others are shown as before."""

    def __init__(self, show: Any) -> None:
        self._show = show

    def __call__(self, message: Warning | str, *others: Any, **options: Any) -> None:
        if said := _SAID.match(str(message)):
            _noted.add(said[1])
        else:
            self._show(message, *others, **options)


@contextmanager
def noting(into: set[str]) -> Iterator[None]:
    """A block of one learner's work; what it runs that has no fixed order is added to `into`."""
    global _noted
    outer, _noted = _noted, into
    try:
        yield
    finally:
        _noted = outer


def broken(unordered: tuple[str, ...]) -> str:
    """Why equal bits are not promised, or nothing.

    Args:
        unordered: the operators that were noted.
    """
    if torch.version.hip:
        return "ROCm's libraries promise no fixed order"
    if (chosen := _workspace()) not in WORKSPACES:
        return f"{WORKSPACE} is {chosen!r}"
    return f"no fixed order in {', '.join(unordered)}" if unordered else ""


def _workspace() -> str:
    return os.environ.get(WORKSPACE, WORKSPACES[0])  # which `fix_order` sets


def described(unordered: tuple[str, ...]) -> tuple[bool, str]:
    """Whether equal bits are promised, and why, for the record."""
    why = broken(unordered)
    return not why, why or HELD.format(_workspace())

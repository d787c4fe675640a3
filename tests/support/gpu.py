"""GPUs that are not there: what a machine says of them, so that rules about them can be tested on a CPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch


@dataclass
class Gpu:
    """What the pretended machine has; a test changes it.

    Attributes:
        current: the GPU that is torch's current one.
    """

    count: int = 1
    capability: tuple[int, int] = (8, 0)
    current: int = 0

    @property
    def ampere(self) -> bool:
        return self.capability >= (8, 0)


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Let torch say that there is a GPU, and put back all that `Numerics.apply` sets for one."""
    found, mode = Gpu(), torch.get_deterministic_debug_mode()

    def properties(device: object = None) -> SimpleNamespace:
        major, minor = found.capability
        return SimpleNamespace(name="Pretended", total_memory=2**34, major=major, minor=minor, uuid="1-2")

    def choose(device: torch.device) -> None:
        found.current = torch.device(device).index or 0

    said = {
        "is_available": lambda: True,
        "device_count": lambda: found.count,
        "device": lambda device: nullcontext(),
        "set_device": choose,
        "get_device_capability": lambda device=None: found.capability,
        "get_device_properties": properties,
        "is_bf16_supported": lambda including_emulation=True: found.ampere or including_emulation,
        "is_tf32_supported": lambda: found.ampere,
    }
    for name, answer in said.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    for owner, name in (
        (torch.backends.cuda.matmul, "allow_tf32"),
        *((torch.backends.cudnn, name) for name in ("allow_tf32", "deterministic", "benchmark")),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
        (os, "environ"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    always = torch.is_warn_always_enabled()
    with warnings.catch_warnings():
        yield found
    torch.set_warn_always(always)
    torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)

"""Seeds made from names, and code with its own random numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A stable 63-bit seed from whatever names a random stream, e.g. `derive_seed(seed, "order", epoch)`.

    The same in every process and version of Python, unlike `hash`; the number 1 and the text "1" differ.
    """
    text = "\x1f".join(f"{'i' if isinstance(part, int) else 's'}{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A new CPU generator seeded with `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def seed_all(*parts: int | str) -> None:
    """Seed the global random numbers of `random`, numpy and torch (all devices) with `derive_seed(*parts)`."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # a torch built for CUDA would keep a stack trace of every call until CUDA is there: 0.4 ms of each step
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Run a block with the CPU random numbers of `random`, numpy and torch seeded; the caller's go on undisturbed."""
    seed = derive_seed(*parts)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators as well
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

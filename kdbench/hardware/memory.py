"""How much memory a device has left, and what to say when it runs out."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.hardware import heap

# what allocators say that have no exception of their own: of CPUs, files, MPS, cuBLAS and cuDNN
SIGNS = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")
SHARE = 0.9  # of the memory that is left, for a cohort; the rest is for fragments and other processes
CGROUPS = Path("/sys/fs/cgroup")


class OutOfMemory(KDBenchError):  # noqa: N818  (torch calls it so)
    """The device's memory did not hold a cohort's work.

    Attributes:
        alone: whether no learners were in memory yet, so that fewer of them would not help.
    """

    def __init__(self, message: str, alone: bool) -> None:
        super().__init__(message)
        self.alone = alone


@contextmanager
def explained(what: str, batch_size: int, device: torch.device, alone: bool = False) -> Iterator[None]:
    """Turn an out-of-memory of any kind into a sentence.

    Args:
        what: whose work it is.
        batch_size: the recipe's, which the sentence advises to lower.

    Raises:
        OutOfMemory: in place of what torch, Python or the operating system raised.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if not ran_out(error):
            raise
        fix = f"give the recipe a batch_size below {batch_size}, or take another --device"
        raise OutOfMemory(f"{what} does not fit into the memory of device {str(device)!r}: {fix}", alone) from error


def ran_out(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, says that memory ran out."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
            return True
        error = error.__cause__
    return False


def release(device: torch.device) -> None:
    """Give back what nothing needs any more: a failed backward pass, cycles, blocks that torch keeps on the device."""
    gc.collect()
    torch.zeros((), requires_grad=True).backward()  # what a failed pass left to do, torch keeps until the next pass
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        heap.trim()


def available(device: torch.device) -> int | None:
    """Bytes that new tensors can take on the device; None where nobody says."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    heap.trim()
    return min((room for room in (_physical(), *_of_cgroups()) if room is not None), default=None)


def _physical() -> int | None:
    """Bytes of the machine's memory that can be had without swapping, where the kernel counts them (Linux)."""
    kilobytes = _table("/proc/meminfo", ":").get("MemAvailable")
    return None if kilobytes is None else int(kilobytes.split()[0]) * 1024


def _of_cgroups(root: Path = CGROUPS, own: str = "/proc/self/cgroup") -> Iterator[int]:
    """Bytes left in each control group that holds this process and has a limit: a container's, a batch job's.

    A container sees its own group where the machine's root would be, so folders that are not there are passed over.
    """
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            folder, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            folder, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for place in (folder / group, *(folder / parent for parent in group.parents)):
            limit, used = ("".join(_lines(place / name)) for name in names[:2])
            if limit.isdigit() and used.isdigit():
                files = int(_table(place / "memory.stat", " ").get(names[2], 0))  # cached files, given up when needed
                yield max(int(limit) - int(used) + files, 0)


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _table(path: str | Path, separator: str) -> dict[str, str]:
    return {key: value for key, _, value in (line.partition(separator) for line in _lines(path))}


@dataclass
class Peak:
    """What a block needed at most, in MiB; known when it has ended."""

    mb: float = 0.0


@contextmanager
def peak(modules: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Iterator[Peak]:
    """Measure the peak memory of one training step.

    CUDA: the allocator's peak during the step, less what is held before it beside these modules, their gradients and
    their optimizer's state. Elsewhere there is no such counter, so it is the size of weights, gradients, optimizer
    state and all tensors saved for the backward pass.
    """
    held = {t.data_ptr(): t.nbytes for t in (*modules.parameters(), *modules.buffers())}
    weights, measured = sum(held.values()), Peak()
    if device.type == "cuda":
        own = weights + _beside_weights(modules, optimizer, device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield measured
        measured.mb = (torch.cuda.max_memory_allocated(device) - before + own) / 2**20
        return
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.device == device and storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself it would hold its graph, for good if no backward pass releases it

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield measured
    measured.mb = (weights + _beside_weights(modules, optimizer, device) + sum(saved.values())) / 2**20


def _beside_weights(modules: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> int:
    """Bytes of gradients and of an optimizer's state on a device."""
    state = (value for slots in optimizer.state.values() for value in slots.values() if isinstance(value, Tensor))
    gradients = (p.grad for p in modules.parameters() if p.grad is not None)
    return sum(tensor.nbytes for tensor in (*state, *gradients) if _on(tensor, device))


def _on(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type

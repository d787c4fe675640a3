"""Faults of the machine, which blame no method: a dead data worker, a lost device, a disk or a kernel that gives up."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdbench.errors import KDBenchError

# what a call says that no method can bring about by what it computes
ERRNOS = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ENOSPC", "EDQUOT", "EAGAIN", "EMFILE", "ENFILE", "ESTALE", "EROFS", "ENODEV", "ENXIO")
    if hasattr(errno, name)
)
WORKER_SIGNS = ("DataLoader worker",)
DEVICE_SIGNS = ("CUDA error", "cudaError", "device-side assert", "CUDA driver error", "HIP error", "MPS backend error")
SYSTEM_SIGNS = ("Resource temporarily unavailable", "Input/output error", "No space left on device", "Bus error")
DEVICE_ERROR: type[BaseException] | tuple[()] = getattr(torch, "AcceleratorError", ())
AGAIN = "records and checkpoints are kept, and the same command goes on from them"


class MachineFault(KDBenchError):  # noqa: N818  (the machine's, not the user's)
    """The machine failed a run; no cell is to blame.

    Attributes:
        worker: whether it was a process that reads the data, so that new ones may do better.
    """

    def __init__(self, message: str, worker: bool = False) -> None:
        super().__init__(message)
        self.worker = worker


def is_machines(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, is the machine's fault."""
    return _fault(error) is not None


@contextmanager
def explained() -> Iterator[None]:
    """Turn a fault of the machine into a sentence.

    Raises:
        MachineFault: in place of what torch or the operating system raised.
    """
    try:
        yield
    except KDBenchError:
        raise
    except Exception as error:
        fault = _fault(error)
        if fault is None:
            raise
        raise fault from error


def _fault(error: BaseException | None) -> MachineFault | None:
    """The sentence about the first fault in a chain of exceptions."""
    while error is not None:
        text = " ".join(str(error).split())
        said = isinstance(error, RuntimeError | OSError)
        if said and any(sign in text for sign in WORKER_SIGNS):
            why = "too little memory, or too small a /dev/shm"
            return MachineFault(f"a process that reads the data died ({why}): {AGAIN}", worker=True)
        if isinstance(error, DEVICE_ERROR) or (said and any(sign in text for sign in DEVICE_SIGNS)):
            return MachineFault(f"the device was lost ({text[:120].rstrip('.')}): {AGAIN}, in a new process")
        if isinstance(error, OSError) and error.errno in ERRNOS:
            return MachineFault(f"the machine gave up ({error.strerror}{_of(error)}): see to it; {AGAIN}")
        if said and any(sign in text for sign in SYSTEM_SIGNS):
            return MachineFault(f"the machine gave up ({text[:120].rstrip('.')}): see to it; {AGAIN}")
        error = error.__cause__
    return None


def _of(error: OSError) -> str:
    return f" at {error.filename!r}" if error.filename else ""

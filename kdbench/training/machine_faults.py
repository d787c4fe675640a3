"""Faults of the machine, which blame no method: a dead data worker, a lost device, a disk or a kernel that gives up."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdbench.errors import KDBenchError
from kdbench.hardware.memory import ran_out

# what a call says that no method can bring about by what it computes
ERRNOS = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ENOSPC", "EDQUOT", "EAGAIN", "EMFILE", "ENFILE", "ESTALE", "EROFS", "ENODEV", "ENXIO")
    if hasattr(errno, name)
)
WORKER_SIGNS = ("DataLoader worker",)
DEVICE_SIGNS = ("CUDA error", "cudaError", "device-side assert", "CUDA driver error", "HIP error", "MPS backend error",
                "an illegal memory access", "unspecified launch failure")  # fmt: skip
# of cuBLAS, cuDNN and their kind
LIBRARY_SIGN = re.compile(
    r"\bCU[A-Z]+_(?:STATUS_)?(?:EXEC(?:UTION)?_FAILED|INTERNAL_ERROR|MAPPING_ERROR|NOT_INITIALIZED)"
)
# about the arguments of a call, which leaves the device as it was
OF_A_CALL = re.compile(r"CUDA error: invalid (?:configuration )?argument|CUBLAS_STATUS_(?:INVALID_VALUE|NOT_SUPPORTED)")
SYSTEM_SIGNS = ("Resource temporarily unavailable", "Input/output error", "No space left on device", "Bus error")
DEVICE_ERROR: type[BaseException] | tuple[()] = getattr(torch, "AcceleratorError", ())
BLOCKING = "CUDA_LAUNCH_BLOCKING"
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
    return fault_of(error) is not None


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
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from error


def fault_of(error: BaseException | None, during: str = "") -> MachineFault | None:
    """The sentence about the first fault in a chain of exceptions; None if no machine's, or if memory ran out.

    Args:
        during: whose work it was that met it.
    """
    if ran_out(error):
        return None
    if lost := _of_device(error):
        return MachineFault(f"the device was lost ({lost}){_met(during)}: {AGAIN}, in a new process")
    while error is not None:
        text = " ".join(str(error).split())
        said = isinstance(error, RuntimeError | OSError)
        if said and any(sign in text for sign in WORKER_SIGNS):
            why = "too little memory, or too small a /dev/shm"
            return MachineFault(f"a process that reads the data died ({why}): {AGAIN}", worker=True)
        if isinstance(error, OSError) and error.errno in ERRNOS:
            return MachineFault(f"the machine gave up ({error.strerror}{_of(error)}): see to it; {AGAIN}")
        if said and any(sign in text for sign in SYSTEM_SIGNS):
            return MachineFault(f"the machine gave up ({text[:120].rstrip('.')}): see to it; {AGAIN}")
        error = error.__cause__
    return None


def _of_device(error: BaseException | None) -> str:
    """What an accelerator said that computes no more, or nothing.

    From then on every call on it fails, whoever makes it: what was raised while that was handled counts, too.
    """
    while error is not None:
        text = str(error)
        if isinstance(error, DEVICE_ERROR) or (isinstance(error, RuntimeError) and _is_lost(text)):
            return "" if OF_A_CALL.search(text) else text.strip().split("\n", 1)[0][:120].rstrip(". ")
        error = error.__cause__ or error.__context__
    return ""


def _is_lost(text: str) -> bool:
    return any(sign in text for sign in DEVICE_SIGNS) or LIBRARY_SIGN.search(text) is not None


def _met(during: str) -> str:
    """Where a lost device was met; a GPU works behind its host, so that it may have been lost before."""
    if not during:
        return ""
    if os.environ.get(BLOCKING) == "1":
        return f" in {during}"
    return f", which showed in {during} and may be another's doing ({BLOCKING}=1 before the command tells whose)"


def _of(error: OSError) -> str:
    return f" at {error.filename!r}" if error.filename else ""

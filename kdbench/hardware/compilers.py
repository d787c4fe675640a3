"""Whether networks can be compiled here, and if not, why: what torch's compiler needs of the machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from functools import cache

import torch
from torch import Tensor

LOWEST = (7, 0)  # the compute capability from which on there is Triton
CXX = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")  # as inductor has it


@cache
def lacking(device: torch.device) -> str:
    """Why no network can be compiled for a device, in words; nothing if it can be.

    On CUDA, where compiling is the default, a first small graph is really compiled: headers, drivers and Triton's own
    tools may be missing as well, and a run must not depend on them.
    """
    if device.type not in ("cpu", "cuda"):
        return ""
    cxx = os.environ.get("CXX") or CXX
    if shutil.which(cxx) is None:
        return f"there is no C++ compiler ({cxx!r} is not found; CXX names another)"
    return _lacking_on_cuda(device) if device.type == "cuda" else ""


def _lacking_on_cuda(device: torch.device) -> str:
    found = torch.cuda.get_device_capability(device)
    if found < LOWEST and not torch.version.hip:
        return f"the GPU has compute capability {found[0]}.{found[1]}, and Triton needs {LOWEST[0]}.{LOWEST[1]}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    chosen = os.environ.get("CC")
    if not any(shutil.which(name) for name in ([chosen] if chosen else ["gcc", "clang"])):
        return f"there is no C compiler ({repr(chosen) if chosen else 'gcc or clang'} is not found; CC names another)"
    return _tried(device)


def _tried(device: torch.device) -> str:
    """What goes wrong when a small graph is compiled, forward and backward."""
    from kdbench.hardware.compiled import prepare

    prepare()
    try:
        inputs = torch.ones(256, device=device, requires_grad=True)
        torch.compile(_small, dynamic=False)(inputs).backward()
    except Exception as error:
        first = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return f"a first graph could not be compiled ({first[:200].rstrip('.')})"
    return ""


def _small(inputs: Tensor) -> Tensor:
    return inputs.sin().square().sum()

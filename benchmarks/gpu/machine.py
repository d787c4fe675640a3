"""What the numbers depend on, and what a table is headed by."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch

from kdbench.hardware.machine import hardware
from kdbench.hardware.numerics import Numerics

PACKAGES = ("torch", "torchvision", "timm", "numpy")


def described(numerics: Numerics) -> dict[str, Any]:
    """Parts, versions and switches; the numerics are applied first, as a run does."""
    numerics.apply()
    found: dict[str, Any] = {
        **hardware(numerics.device),
        "device": str(numerics.device),
        "precision": numerics.precision,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
    if numerics.device.type == "cuda":
        found |= {
            "driver": asked_of_driver("driver_version"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(numerics.device))),
            "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
            "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
        }
    return found


def asked_of_driver(what: str) -> str:
    """A property of the first GPU, as `nvidia-smi` has it; empty where there is no such tool."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""

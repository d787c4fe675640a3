"""What this machine is: its parts, and what its processor multiplies natively."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively (CPUs: AMX or AVX512-BF16; else it emulates them)."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks the current one
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return any(_processor_has(name) for name in ("amx_tile", "avx512_bf16"))
    return False


def multiplies_tf32(device: torch.device) -> bool:
    """Whether the device is a GPU that can multiply float32 matrices in TF32, with 10 bits of their mantissa."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_tf32_supported()


def multiplies_tiles(device: torch.device) -> bool:
    """Whether the device is a CPU with tiles for bf16 matrices (Intel's AMX)."""
    return device.type == "cpu" and _processor_has("amx_tile")


def _processor_has(instructions: str) -> bool:
    probe = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return bool(probe and probe())


def hardware(device: torch.device) -> dict[str, Any]:
    """Names and sizes of the machine's parts, for the record."""
    facts: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"accelerator": properties.name, "accelerator_memory_mb": properties.total_memory // 2**20}
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

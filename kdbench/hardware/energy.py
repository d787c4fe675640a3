"""The energy a device has used, where it counts that: NVIDIA's counter on CUDA, RAPL for the processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")  # one folder per processor package, e.g. intel-rapl:0; AMD uses the same names


class EnergyMeter:
    """The power that a device has drawn since the meter was made.

    CUDA: the total of the whole device, whoever uses it, by `nvidia-ml-py` where that is installed. CPU: all processor
    packages by RAPL, which most systems let only root read. Elsewhere, and where a counter is missing, None.
    """

    def __init__(self, device: torch.device, rapl: Path = RAPL) -> None:
        self._total = _nvml(device) if device.type == "cuda" else _rapl(rapl) if device.type == "cpu" else None
        self._since = time.perf_counter()
        self._before = self._total() if self._total else 0.0

    def watts(self) -> float | None:
        """The mean power since the meter was made; on CUDA the caller has waited for the device."""
        if self._total is None:
            return None
        return (self._total() - self._before) / (time.perf_counter() - self._since)


def _nvml(device: torch.device) -> Callable[[], float] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        identity = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(identity if identity.startswith("GPU-") else f"GPU-{identity}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, or a device that keeps no count
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3  # millijoules


def _rapl(root: Path) -> Callable[[], float] | None:
    packages = [_Package(path) for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]
    try:
        for package in packages:
            package.joules()
    except (OSError, ValueError):
        return None
    return (lambda: sum(package.joules() for package in packages)) if packages else None


class _Package:
    """One processor package's counter, which starts again at zero when it is full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passed = 0.0
        self._last: float | None = None

    def joules(self) -> float:
        now = self._microjoules("energy_uj")
        if self._last is not None and now < self._last:
            self._passed += self._microjoules("max_energy_range_uj")
        self._last = now
        return (self._passed + now) / 1e6

    def _microjoules(self, name: str) -> float:
        return float((self._folder / name).read_text())

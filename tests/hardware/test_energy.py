"""The energy meter against counters that the test makes, and latencies of a deployed network."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdbench.hardware import energy
from kdbench.hardware.energy import EnergyMeter
from kdbench.testing.trial import FP32
from kdbench.training.cost import latencies

CPU = torch.device("cpu")


def package(root: Path, number: int, microjoules: int) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test moves."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(energy.time, "perf_counter", lambda: now.seconds)
    return now


def test_power_is_the_packages_joules_over_the_seconds(tmp_path: Path, clock: SimpleNamespace) -> None:
    package(tmp_path, 0, 1_000_000)
    package(tmp_path, 1, 2_000_000)
    meter = EnergyMeter(CPU, tmp_path)
    package(tmp_path, 0, 4_000_000)
    package(tmp_path, 1, 7_000_000)
    clock.seconds += 4
    assert meter.watts() == pytest.approx((3 + 5) / 4)


def test_a_counter_that_starts_again_at_zero_loses_nothing(tmp_path: Path, clock: SimpleNamespace) -> None:
    package(tmp_path, 0, 9_000_000)
    meter = EnergyMeter(CPU, tmp_path)
    package(tmp_path, 0, 1_000_000)
    clock.seconds += 2
    assert meter.watts() == pytest.approx((1 + 10 - 9) / 2)


def test_a_machine_without_counters_has_no_power(tmp_path: Path) -> None:
    assert EnergyMeter(CPU, tmp_path).watts() is None
    assert EnergyMeter(torch.device("meta"), tmp_path).watts() is None


def test_a_counter_that_may_not_be_read_counts_as_none(tmp_path: Path) -> None:
    (package(tmp_path, 0, 1) / "energy_uj").unlink()
    assert EnergyMeter(CPU, tmp_path).watts() is None


def test_cuda_asks_nvidias_counter(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    millijoules = iter([0, 5_000, 11_000])  # the first call asks whether there is a counter
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda identity: identity,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    meter = EnergyMeter(torch.device("cuda"))
    clock.seconds += 3
    assert meter.watts() == pytest.approx(6 / 3)


def test_the_package_that_asks_it_is_an_extra_of_ours() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert [requirement.partition(">")[0] for requirement in extras["energy"]] == ["nvidia-ml-py"]


def test_latency_is_measured_at_one_image_and_at_a_full_batch() -> None:
    seen = set()

    class Net(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            seen.add(len(x))
            return super().forward(x.flatten(1))

    found = latencies(Net(48, 3), torch.zeros(1, 3, 4, 4), FP32)
    assert seen == {1, 128}
    assert found.keys() == {"latency_ms_batch1", "latency_ms_batch128"}
    assert all(value > 0 for value in found.values())

"""What the benchmarks share: sizes, generated data, device rules, and what the report says about the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cifar import write_cifar100
from benchmarks.paced import Workshop
from benchmarks.setting import FULL, TOY, Setting
from kdbench.hardware.machine import hardware
from kdbench.hardware.numerics import Numerics, resolve

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pytest-benchmark")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--toy", action="store_true", help="run every benchmark at a size that shows only that it runs")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the report says about the machine."""
    numerics = resolve()
    machine_info["kdbench"] = {
        "hardware": hardware(numerics.device),
        "numerics": numerics.describe(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load": os.getloadavg()[0],  # before the first benchmark: what else the machine had to do
    }


@pytest.fixture(scope="session")
def setting(pytestconfig: pytest.Config) -> Setting:
    return TOY if pytestconfig.getoption("--toy") else FULL


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Iterator[Path]:
    """A data folder with random images in CIFAR-100's format."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        write_cifar100(root, setting.train_samples, setting.test_samples, patch)
        yield root


@pytest.fixture
def workshop(tmp_path: Path, data: Path, setting: Setting) -> Workshop:
    return Workshop(tmp_path, data, setting.batch_size, setting.assistants, setting.epochs)


@pytest.fixture(autouse=True)
def _threads_of_a_run(automatic: Numerics) -> None:
    """Everything is timed on as many threads as `kdbench run` takes, whatever was timed before it."""
    automatic.apply()


@pytest.fixture(scope="session")
def automatic() -> Numerics:
    """The device rules that hold whatever the networks."""
    return resolve()

"""Shared fixtures: one thread, so that tests do not fight over cores, and a suite small enough for seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gpu import Gpu, pretended

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("COLUMNS", "200")

TINY = """
name = "tiny"
seeds = [0, 1]
methods = ["student", "kd"]

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 8 } }

[recipe]
epochs = 2
batch_size = 32

[[pairs]]
teacher = "cifar_resnet8"
pool = ["cifar_resnet8", "cifar_resnet8@1"]
student = "cifar_resnet8"
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _short_latencies() -> None:
    """Latencies of the thousands of cells that tests train are of three calls each, not of 0.2 seconds."""
    from kdbench.training import cost

    cost.SECONDS = 0.0


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the methods that a test registers."""
    from kdbench import registry

    registry.names()
    for held in ("_METHODS", "_ALIASES"):
        monkeypatch.setattr(registry, held, dict(getattr(registry, held)))


@pytest.fixture
def saved_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints at each epoch's end, however short; a run has them every 30 seconds at most."""
    monkeypatch.setattr("kdbench.training.saving.EVERY", 0.0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A machine that says it has GPUs: nothing can be computed on them. All that kdbench sets for them is put back."""
    with pretended(monkeypatch) as found:
        yield found


@pytest.fixture
def tiny_suite(tmp_path: Path) -> Path:
    """A suite of real digits that runs in seconds."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the tiny suite and a multi-teacher method, trained once; copy it before you change it."""
    from typer.testing import CliRunner

    from kdbench.commands.cli import app

    out = tmp_path_factory.mktemp("tiny") / "runs"
    out.mkdir()
    suite = out / "tiny.toml"
    suite.write_text(TINY.replace('"kd"', '"kd", "aver_mkd"'))
    result = CliRunner().invoke(app, ["run", str(suite), "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return out

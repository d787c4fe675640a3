"""How long a command takes when there is nothing to train, beside an empty Python and one that imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.setting import Setting

# row of the table -> arguments of Python; {suite} and {out} are those of a finished suite
ROWS = {
    "python": ("-c", "pass"),
    "import torch": ("-c", "import torch"),
    "import kdbench": ("-c", "import kdbench"),
    "kdbench --help": ("-m", "kdbench", "--help"),
    "kdbench list": ("-m", "kdbench", "list"),
    "kdbench run, finished": ("-m", "kdbench", "run", "{suite}", "--out", "{out}", "--device", "cpu"),
}
SUITE = """
seeds = [0]
methods = ["student", "kd"]

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 8 } }

[recipe]
epochs = 1
batch_size = 32

[[pairs]]
teacher = "cifar_resnet8"
student = "cifar_resnet8"
"""


def start(row: str, folder: Path) -> None:
    places = {"suite": folder / "tiny.toml", "out": folder / "runs"}
    arguments = [argument.format(**places) for argument in ROWS[row]]
    subprocess.run([sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, check=True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite of two cells and its runs."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(SUITE)
    start("kdbench run, finished", folder)
    return folder


@pytest.mark.benchmark(group="start-up")
@pytest.mark.parametrize("row", ROWS)
def test_the_start_of(benchmark: BenchmarkFixture, setting: Setting, finished: Path, row: str) -> None:
    """Each in a process of its own; once before the timed rounds, so that its files are in the system's cache."""
    benchmark.extra_info |= {"what": row}
    benchmark.pedantic(start, args=(row, finished), rounds=2 * setting.rounds, warmup_rounds=1)

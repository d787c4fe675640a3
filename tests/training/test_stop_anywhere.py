"""A process killed at any instruction, started again, ends with the records and tables of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.outcomes import outcome

DRIVER = Path(__file__).parents[1] / "support" / "kill_driver.py"
# one single, one mutual, one multi-teacher, one staged and one multi-head method, and one with a memory bank
METHODS = ["student", "dml", "aver_mkd", "sskd", "mhkd", "crd"]
SUITE = """
name = "stop"
seeds = [0]
methods = ["student", "dml", "aver_mkd", "sskd", { name = "mhkd", width = 8 }, { name = "crd", negatives = 16 }]

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 4 } }

[recipe]
epochs = 4
batch_size = 16

[teacher_recipe]
epochs = 1

[[pairs]]
teacher = "cifar_resnet8"
pool = ["cifar_resnet8", "cifar_resnet8@1"]
student = "cifar_resnet8"
"""


def command(folder: Path) -> list[str]:
    return ["run", str(folder / "stop.toml"), "--out", str(folder / "runs"), "--device", "cpu"]


def run(folder: Path, *driver: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    (folder / "stop.toml").write_text(SUITE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    program = [sys.executable, str(DRIVER), *(driver or ("step", "-1"))]
    return subprocess.run([*program, *command(folder)], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run(folder)
    assert finished.returncode == 0, finished.stderr
    return outcome(folder / "runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills",
    [
        [("step", "3")],  # while the first teacher trains
        [("step", "20")],  # inside the first epoch of the cohort, between two learners
        [("step", "45"), ("step", "30")],  # twice
        [("epoch", "5")],  # between the learners' ends of one epoch
        [("checkpoint", "8"), ("rename", "3")],
        [("snapshot", "4"), ("waiting", "1")],
        [("rename", "9"), ("rename", "1")],  # a file written, not yet in its place
        [("finish", "2")],  # a teacher done, its record not written
        [("finish", "5")],  # a cell done, its record not written
    ],
    ids=lambda kills: "+".join("".join(kill) for kill in kills),
)
def test_a_killed_run_ends_like_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, str], kills: list[tuple[str, str]]
) -> None:
    for kill in kills:
        assert run(tmp_path, *kill).returncode == -signal.SIGKILL
    finished = run(tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert outcome(tmp_path / "runs") == undisturbed
    assert len([name for name in undisturbed if name.startswith("stop/records")]) == len(METHODS)
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("checkpoints/*.pt"))


@pytest.mark.slow
def test_a_run_with_few_checkpoints_ends_like_one_with_many(
    tmp_path: Path, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As users have it: none of these epochs is long enough, so that the cohort begins again."""
    monkeypatch.setenv("CHECKPOINTS_EVERY", "30")
    assert run(tmp_path, "step", "45").returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("runs/stop/checkpoints/*"))
    assert run(tmp_path).returncode == 0
    assert outcome(tmp_path / "runs") == undisturbed


@pytest.mark.slow
def test_a_finished_run_trains_nothing_and_prints_the_same_table(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path, "step", "1")  # would die at its first step
    assert again.returncode == 0
    assert "vs student" in again.stdout
    assert first.stdout.endswith(again.stdout)

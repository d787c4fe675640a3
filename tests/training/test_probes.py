"""What was done to whole runs and left nothing changed: the same command ends with what an undisturbed run leaves."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.outcomes import outcome
from typer.testing import CliRunner

from kdbench.commands.cli import app
from kdbench.commands.progress import Display
from kdbench.errors import KDBenchError
from kdbench.training.weights import read_weights

SUITE = """
name = "tiny"
seeds = [0]
methods = ["student", "kd"]
[[datasets]]
name = "digits"
protocol = { subset = { per_class = 4 } }
[recipe]
epochs = 2
batch_size = 32
[teacher_recipe]
epochs = 1
[[pairs]]
teacher = "cifar_resnet8"
student = "cifar_resnet8"
"""


def kdbench(folder: Path, out: str = "runs") -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(SUITE)
    words = ["run", str(folder / "tiny.toml"), "--out", str(folder / out), "--device", "cpu", "--precision", "fp32"]
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert kdbench(folder).exit_code == 0
    return outcome(folder / "runs")


@pytest.fixture
def after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something once, when the first epoch of a student is done."""

    def arrange(deed: Callable[[], object]) -> None:
        original, left = Display.epoch_done, [deed]

        def epoch_done(self: Display, cell: Any, epoch: int, scores: Any) -> None:
            original(self, cell, epoch, scores)
            if cell.role == "student" and left:
                left.pop()()

        monkeypatch.setattr(Display, "epoch_done", epoch_done)

    return arrange


@pytest.mark.parametrize("lost", ["tiny", "tiny/records", "tiny/checkpoints"])
def test_folders_that_are_deleted_while_it_runs(
    undisturbed: dict[str, str], after_an_epoch: Callable[[Any], None], tmp_path: Path, lost: str
) -> None:
    after_an_epoch(lambda: shutil.rmtree(tmp_path / "runs" / lost, ignore_errors=True))
    kdbench(tmp_path)
    assert kdbench(tmp_path).exit_code == 0
    assert outcome(tmp_path / "runs") == undisturbed


def test_a_run_whose_records_were_deleted_meanwhile_says_so(
    after_an_epoch: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Display.cell_ended

    def cell_ended(self: Display, cell: Any, status: str, reason: str, scores: Any) -> None:
        original(self, cell, status, reason, scores)
        if cell.method.name == "kd":
            shutil.rmtree(tmp_path / "runs" / "tiny" / "records")

    monkeypatch.setattr(Display, "cell_ended", cell_ended)
    ended = kdbench(tmp_path)
    assert ended.exit_code == 1
    assert "2 of 2 cells have no record" in ended.stderr
    assert "the same command trains them again" in ended.stderr


@pytest.mark.parametrize("seconds", [-10 * 365 * 86400, 100 * 86400])
def test_a_clock_that_jumps(
    undisturbed: dict[str, str], after_an_epoch: Callable[[Any], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, seconds: int,
) -> None:  # fmt: skip
    real = time.time
    after_an_epoch(lambda: monkeypatch.setattr(time, "time", lambda: real() + seconds))
    assert kdbench(tmp_path).exit_code == 0
    assert outcome(tmp_path / "runs") == undisturbed


def test_a_results_folder_behind_a_link(undisturbed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert kdbench(tmp_path).exit_code == 0
    assert (tmp_path / "runs").is_symlink()
    assert outcome(tmp_path / "elsewhere") == undisturbed


def test_a_record_that_is_a_link_is_replaced_and_nothing_is_written_where_it_led(
    undisturbed: dict[str, str], tmp_path: Path
) -> None:
    assert kdbench(tmp_path).exit_code == 0
    record = next((tmp_path / "runs" / "tiny" / "records").glob("*.json"))
    record.unlink()
    record.symlink_to(tmp_path / "outside.json")
    assert kdbench(tmp_path).exit_code == 0
    assert not (tmp_path / "outside.json").exists()
    assert outcome(tmp_path / "runs") == undisturbed


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_that_ends_the_process(undisturbed: dict[str, str], tmp_path: Path, name: str) -> None:
    program = (
        "import os, signal, sys\n"
        "from kdbench.commands.progress import Display\n"
        "from kdbench.commands import cli\n"
        "def epoch_done(self, cell, epoch, scores):\n"
        f"    if cell.role == 'student': os.kill(os.getpid(), signal.{name})\n"
        "Display.epoch_done = epoch_done\n"
        "cli.main()\n"
    )
    tmp_path.joinpath("tiny.toml").write_text(SUITE)
    words = ["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "runs"), "--device", "cpu"]
    ended = subprocess.run([sys.executable, "-c", program, *words, "--precision", "fp32"], capture_output=True)
    assert ended.returncode == -getattr(signal, name)
    assert kdbench(tmp_path).exit_code == 0
    assert outcome(tmp_path / "runs") == undisturbed


# ------------------------------------------------------------------------------------------------ weights that are code


class Payload:
    """Unpickled, it would make a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.trace),)


def _raw(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps({"weight": payload}))


def _zipped(path: Path, payload: Payload) -> None:
    torch.save({"weight": payload}, path)


def _legacy(path: Path, payload: Payload) -> None:
    torch.save({"weight": payload}, path, _use_new_zipfile_serialization=False)


def _tar(path: Path, payload: Payload) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(payload)
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("write", [_raw, _zipped, _legacy, _tar])
def test_no_form_of_weights_runs_code(tmp_path: Path, write: Callable[[Path, Payload], None], suffix: str) -> None:
    path, trace = tmp_path / f"teacher{suffix}", tmp_path / "executed"
    write(path, Payload(trace))
    with pytest.raises(KDBenchError, match="cannot be read as plain weights"):
        read_weights(path)
    assert not trace.exists()

"""The contract on another device than the CPU: where its images lie, and in which numerics its checks run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import Gpu
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from kdbench.commands.cli import app, main
from kdbench.hardware.numerics import Numerics
from kdbench.method import tensors_in
from kdbench.testing import checks
from kdbench.testing.checks import SETTINGS, in_setting
from kdbench.testing.trial import FP32, Bench, RandomTask

CUDA = Numerics(torch.device("cuda:1"))


@pytest.mark.parametrize("strong", [False, True])
def test_the_contracts_images_lie_on_the_device(strong: bool) -> None:
    with FakeTensorMode():
        task = RandomTask(CUDA)
        batches = [*task.training_set(0, strong).epoch(0), *task.test.batches()]
        held = tensors_in([vars(batch) for batch in batches])
        devices = {tensor.device for tensor in (*held, task.targets, *next(task.test_batches()))}
    assert [len(batch) for batch in batches] == [16, 5, 16, 5]
    assert devices == {CUDA.device}


def test_a_settings_changes_are_made_to_the_benchs_own_numerics(tmp_path: Path) -> None:
    bench = Bench(tmp_path, numerics=dataclasses.replace(FP32, threads=2))
    found = {name: in_setting(bench, name).numerics for name in SETTINGS}
    assert {numerics.threads for numerics in found.values()} == {2}
    assert found["bf16"].precision == "bf16"
    assert (found["compiled networks"].compile, found["compiled networks"].backend) == (True, "aot_eager")
    assert found["two classes"] == bench.numerics


@pytest.mark.parametrize(
    ("words", "device"), [([], "cpu"), (["--device", "cuda"], "cuda"), (["--device", "cuda:1"], "cuda:1")]
)
def test_check_runs_where_it_is_told(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, words: list[str], device: str) -> None:
    gpu.count, seen = 2, list[Numerics]()

    def look(bench: Bench, method: str) -> None:
        seen.append(bench.numerics)

    monkeypatch.setattr(checks, "Bench", Stand)
    monkeypatch.setattr(checks, "CHECKS", {"trains": look})
    said = CliRunner().invoke(app, ["check", "kd", *words])
    assert (said.exit_code, said.output) == (0, "kd: trains: ok\n")
    assert [(str(found.device), found.precision, found.compile) for found in seen] == [(device, "fp32", False)]


@dataclasses.dataclass
class Stand:
    """In a bench's place: nothing is built on a GPU that is not there."""

    numerics: Any = None

    @classmethod
    def of(cls, kind: str, folder: Path, numerics: Numerics) -> Stand:
        assert kind == "image"
        return cls(numerics)


@pytest.mark.usefixtures("gpu")
def test_check_on_a_device_that_is_not_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kdbench", "check", "kd", "--device", "cuda:3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code
    assert "device 'cuda:3' is not there: this machine has 'cuda:0'" in capsys.readouterr().err

"""The precision a cell is computed in, where its recipe leaves the choice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.gpu import Gpu
from torch import nn

from kdbench.commands.screen import PlainConsole
from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.suites.grid import Cell
from kdbench.testing import trial
from kdbench.testing.trial import Bench
from kdbench.training import precision as rules
from kdbench.training import tune, tuned
from kdbench.training.precision import LONG, layers_of, numerics_of


def cell(folder: Path, student: str, precision: str = "auto") -> Cell:
    made = Bench(folder, student="cifar_resnet8").cell("kd")
    pair = dataclasses.replace(made.pair, student=student)
    return dataclasses.replace(made, pair=pair, recipe=dataclasses.replace(made.recipe, precision=precision))


@pytest.fixture(autouse=True)
def _native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)


@pytest.mark.parametrize(
    ("student", "precision"),
    [("cifar_resnet8", "bf16"), ("cifar_mobilenetv2", "fp32"), ("cifar_shufflenetv1", "fp32"), ("test_vit", "bf16")],
)
def test_a_student_with_grouped_convolutions_trains_in_fp32_on_a_cpu(
    tmp_path: Path, student: str, precision: str
) -> None:
    numerics = numerics_of(cell(tmp_path, student), "cpu")
    assert numerics.precision == precision
    assert ("grouped" in numerics.precision_rule) == (precision == "fp32")


def test_a_given_precision_stands_whatever_the_student(tmp_path: Path) -> None:
    numerics = numerics_of(cell(tmp_path, "cifar_mobilenetv2", "bf16"), "cpu")
    assert (numerics.precision, numerics.precision_rule) == ("bf16", "given")


def test_looking_for_grouped_convolutions_draws_no_random_number() -> None:
    state = torch.get_rng_state()
    assert layers_of("mobilenetv3_small_100").grouped
    assert not layers_of("a_network_of_another_task").grouped
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine can compile."""
    unable(monkeypatch, "")


def unable(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    for user in (rules, tune):
        monkeypatch.setattr(user, "lacking", lambda device: why)


@pytest.fixture
def _amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)


def longer(cell: Cell, epochs: int = LONG) -> Cell:
    return dataclasses.replace(cell, recipe=dataclasses.replace(cell.recipe, epochs=epochs))


@pytest.mark.usefixtures("_amx")
@pytest.mark.parametrize(
    ("student", "compiled"),
    [
        ("cifar_resnet8x4", True),
        ("cifar_wrn_16_2", True),
        ("cifar_vgg8", False),  # max pooling
        ("resnet18", False),
        ("cifar_mobilenetv2", False),  # grouped convolutions
        ("test_vit", False),
        ("a_network_of_another_task", False),
    ],
)
def test_with_amx_long_trainings_of_plain_convolutions_are_compiled(
    tmp_path: Path, student: str, compiled: bool
) -> None:
    one = longer(cell(tmp_path, student))
    numerics = numerics_of(one, "cpu")
    chosen = {(network, frozen): on for network, frozen, on in numerics.verdicts}
    assert chosen.get((student, False), numerics.compile) == compiled
    if numerics.precision == "bf16":
        assert chosen[(one.pair.teacher.network, True)]
        assert "AMX" in numerics.describe()["compile_rule"]


@pytest.mark.usefixtures("_amx")
def test_with_amx_short_trainings_and_fp32_are_not_compiled(tmp_path: Path) -> None:
    short = longer(cell(tmp_path, "cifar_resnet8x4"), LONG - 1)
    wide = longer(cell(tmp_path, "cifar_resnet8x4", "fp32"))
    for one in (short, wide):
        assert numerics_of(one, "cpu").describe()["compile"] is False


@pytest.mark.usefixtures("_amx")
@pytest.mark.parametrize("choice", ["on", "off"])
def test_with_amx_what_the_user_says_stands(tmp_path: Path, choice: str) -> None:
    numerics = numerics_of(longer(cell(tmp_path, "cifar_resnet8x4")), "cpu", choice)
    assert (numerics.compile, numerics.verdicts, numerics.compile_rule) == (choice == "on", (), "given")


@pytest.mark.usefixtures("_amx")
def test_what_was_measured_stands_over_the_rule_for_amx(tmp_path: Path) -> None:
    one = longer(cell(tmp_path, "cifar_resnet8x4"))
    student, _ = tuned.settings_of(one, numerics_of(one, "cpu"))
    tuned.write(tmp_path, {student: {"compiled": False}})
    numerics = numerics_of(one, "cpu", runs=tmp_path)
    network, teacher = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    network.name, teacher.name = "cifar_resnet8x4", one.pair.teacher.network  # type: ignore[assignment]
    assert numerics.compiled(network, 4) is network, numerics
    assert numerics.compiled(teacher, 4) is not teacher


def test_without_amx_a_cpu_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert numerics_of(longer(cell(tmp_path, "cifar_resnet8x4")), "cpu").describe()["compile"] is False


def test_a_precision_that_is_not_here_is_refused_before_a_teacher_trains(tmp_path: Path) -> None:
    one = cell(tmp_path, "cifar_resnet8", "tf32")
    with pytest.raises(KDBenchError, match="device 'cpu' has no TF32"):
        LocalExecutor(tmp_path, trial._Silent(), device="cpu").run([one])
    assert not list(tmp_path.rglob("*.json"))


# ------------------------------------------------------------------------------------------------ on CUDA


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("epochs", "compiled"), [(LONG - 1, False), (LONG, True)])
def test_on_cuda_long_trainings_are_compiled_in_any_precision(tmp_path: Path, epochs: int, compiled: bool) -> None:
    for precision in ("auto", "fp32", "tf32"):
        found = numerics_of(longer(cell(tmp_path, "cifar_mobilenetv2", precision), epochs), "cuda").describe()
        assert found["compile"] is compiled
        assert found["compile_rule"] == f"on with CUDA for trainings of at least {LONG} epochs"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("choice", ["on", "off"])
def test_on_cuda_what_the_user_says_stands(tmp_path: Path, choice: str) -> None:
    for epochs in (1, LONG):
        found = numerics_of(longer(cell(tmp_path, "cifar_resnet8x4"), epochs), "cuda", choice).describe()
        assert (found["compile"], found["compile_rule"]) == (choice == "on", "given")


# ------------------------------------------------------------------------------------------------ nothing compiles


@pytest.mark.usefixtures("_amx")
@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_compiled_run_is_never_the_only_one(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, device: str, measured: bool
) -> None:
    one = longer(cell(tmp_path, "cifar_resnet8x4"))
    if measured:
        tuned.write(tmp_path, {s: {"compiled": True} for s in tuned.settings_of(one, numerics_of(one, device))})
    assert numerics_of(one, device, runs=tmp_path).compiles
    unable(monkeypatch, "there is no C++ compiler")
    found = numerics_of(one, device, runs=tmp_path)
    assert (found.compiles, found.verdicts, found.compile_rule) == (False, (), "off: there is no C++ compiler")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_who_asks_for_compiled_networks_is_told_why_there_are_none(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    unable(monkeypatch, "there is no C++ compiler")
    one = cell(tmp_path, "cifar_resnet8")
    with pytest.raises(
        KDBenchError, match=f"compiled on device '{device}': there is no C.. compiler; leave out --comp"
    ):
        numerics_of(one, device, "on")
    assert not numerics_of(one, device, "off").compiles
    with pytest.raises(KDBenchError, match=f"nothing can be compiled on device '{device}', nor measured: there is no"):
        tune.tune(PlainConsole(), [one], tmp_path, device, None)

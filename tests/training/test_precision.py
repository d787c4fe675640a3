"""The precision a cell is computed in, where its recipe leaves the choice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench.suites.grid import Cell
from kdbench.testing.trial import Bench
from kdbench.training import tuned
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

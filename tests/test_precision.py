"""The precision a cell is computed in, where its recipe leaves the choice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from kdbench.precision import has_grouped_convolutions, numerics_of
from kdbench.suite import Cell
from kdbench.trial import Bench


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
    assert has_grouped_convolutions("mobilenetv3_small_100")
    assert not has_grouped_convolutions("a_network_of_another_task")
    assert torch.equal(state, torch.get_rng_state())

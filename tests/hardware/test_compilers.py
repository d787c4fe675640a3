"""What torch's compiler lacks here, in words; machines are made of names that are on the path or are not."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from support.gpu import Gpu

from kdbench.hardware import compilers
from kdbench.hardware.compilers import CXX, lacking

CUDA = torch.device("cuda")
Machine = Callable[..., None]


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    lacking.cache_clear()
    yield
    lacking.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine("g++", "gcc")` has these programs; Triton, if nothing else is said, and a compiler that works."""

    def make(*programs: str, triton: bool = True, tried: str = "") -> None:
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if triton else None)
        monkeypatch.setattr(compilers, "_tried", lambda device: tried)

    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return make


@pytest.mark.parametrize("programs", [(CXX, "gcc"), (CXX, "clang")])
def test_nothing_is_lacking_where_both_compilers_and_triton_are(
    gpu: Gpu, machine: Machine, programs: tuple[str, ...]
) -> None:
    machine(*programs)
    gpu.capability = (7, 0)
    assert lacking(CUDA) == lacking(torch.device("cpu")) == lacking(torch.device("mps")) == ""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_a_cpp_compiler_nothing_is_compiled(
    gpu: Gpu, machine: Machine, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    machine("gcc")
    assert lacking(torch.device(device)) == f"there is no C++ compiler ({CXX!r} is not found; CXX names another)"
    lacking.cache_clear()
    machine(CXX, "gcc")
    monkeypatch.setenv("CXX", "/nonexistent")
    assert lacking(torch.device(device)).startswith("there is no C++ compiler ('/nonexistent' is not found")


@pytest.mark.parametrize(
    ("programs", "changes", "sentence"),
    [
        ((CXX,), {}, "there is no C compiler (gcc or clang is not found; CC names another)"),
        ((CXX, "gcc"), {"triton": False}, "Triton is not installed"),
        ((CXX, "gcc"), {"tried": "a first graph could not be compiled (X)"}, "a first graph could not be compiled (X)"),
    ],
)
def test_triton_needs_a_c_compiler_of_its_own_and_must_work(
    gpu: Gpu, machine: Machine, programs: tuple[str, ...], changes: dict[str, object], sentence: str
) -> None:
    machine(*programs, **changes)
    assert lacking(CUDA) == sentence
    assert lacking(torch.device("cpu")) == ""


def test_triton_needs_a_newer_gpu(gpu: Gpu, machine: Machine) -> None:
    machine(CXX, "gcc")
    gpu.capability = (6, 1)
    assert lacking(CUDA) == "the GPU has compute capability 6.1, and Triton needs 7.0"


def test_what_goes_wrong_with_the_first_graph_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(function: object, dynamic: bool) -> Callable[..., object]:
        def call(inputs: torch.Tensor) -> object:
            raise RuntimeError("fatal error: Python.h: No such file or directory.\nSet TORCHDYNAMO_VERBOSE=1")

        return call

    device = torch.device("cpu")
    monkeypatch.setattr(torch, "compile", compiler)
    assert compilers._tried(device) == (
        "a first graph could not be compiled (RuntimeError: fatal error: Python.h: No such file or directory)"
    )
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    assert compilers._tried(device) == ""

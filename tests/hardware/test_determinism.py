"""On CUDA sums are computed in one order, or the record says which are not; a CPU's process stays as it is."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.gpu import Gpu
from torch import Tensor

from kdbench import Batch, Method, Output, register
from kdbench.hardware.determinism import WORKSPACE, fix_order, noting
from kdbench.hardware.numerics import Numerics, resolve
from kdbench.hardware.settings import restore, settings
from kdbench.testing.trial import Bench
from kdbench.training.cohort import Cohort

UNORDERED = "max_unpooling2d_forward_out"  # the one of torch's operators that has no fixed order on a CPU either


def unpool(images: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(images, 2, return_indices=True)
    return F.max_unpool2d(pooled, places, 2)


def state() -> tuple[Any, ...]:
    filling = torch.utils.deterministic.fill_uninitialized_memory
    return torch.get_deterministic_debug_mode(), filling, torch.is_warn_always_enabled(), os.environ.get(WORKSPACE)


def test_a_gpus_kernels_add_in_a_fixed_order(gpu: Gpu) -> None:
    import torch._inductor.config as inductor

    numerics = resolve("cuda")
    assert numerics.describe()["deterministic"], "what apply() will set counts"
    numerics.apply()
    assert state() == (1, False, True, ":4096:8")
    assert inductor.deterministic
    found = numerics.describe()
    assert found["deterministic"] is True
    assert found["deterministic_rule"] == "torch.use_deterministic_algorithms, cuBLAS workspace :4096:8"


def test_a_cpus_process_environment_and_record_stay_as_they_are() -> None:
    before, shown = state(), warnings.showwarning
    numerics = resolve("cpu")
    numerics.apply()
    assert state() == before
    assert warnings.showwarning is shown
    assert not [key for key in numerics.describe() if "deterministic" in key]


@pytest.mark.parametrize(("workspace", "held"), [(":16:8", True), (":0:0", False)])
def test_a_workspace_that_the_user_chose_stays_and_the_record_says_what_it_means(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, workspace: str, held: bool
) -> None:
    monkeypatch.setenv(WORKSPACE, workspace)
    numerics = resolve("cuda")
    numerics.apply()
    assert os.environ[WORKSPACE] == workspace
    assert numerics.describe()["deterministic"] is held
    assert workspace in numerics.describe()["deterministic_rule"]


def test_rocm_promises_nothing(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert resolve("cuda").describe()["deterministic_rule"] == "ROCm's libraries promise no fixed order"


def test_what_has_no_fixed_order_is_noted_each_time_and_not_shown(gpu: Gpu, recwarn: pytest.WarningsRecorder) -> None:
    fix_order()
    fix_order()
    first, second, outer = set[str](), set[str](), set[str]()
    with noting(outer):
        with noting(first):
            unpool(torch.rand(1, 1, 4, 4))
        with noting(second):
            unpool(torch.rand(1, 1, 4, 4))
            warnings.warn(
                "Flash Attention defaults to a non-deterministic algorithm. To explicitly enable", stacklevel=1
            )
            warnings.warn("something else", stacklevel=1)
    assert (first, second, outer) == ({UNORDERED}, {UNORDERED, "Flash Attention"}, set())
    assert [str(each.message) for each in recwarn] == ["something else"]


def test_a_methods_own_choice_of_algorithms_is_put_back_with_its_warnings(gpu: Gpu) -> None:
    fix_order()
    before = settings()
    torch.use_deterministic_algorithms(True)
    assert "torch.use_deterministic_algorithms" in restore(before)
    assert torch.get_deterministic_debug_mode() == 1


@pytest.mark.usefixtures("temporary")
def test_the_record_names_what_of_its_method_has_no_fixed_order(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU's run that is described as a GPU's; the first phase's operators count after a stop, too."""

    @register("scatters", family="features")
    class Scatters(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            if self.epoch == 1:
                unpool(batch.inputs)
            return {"ce": F.cross_entropy(student.logits, batch.targets)}

    described = Numerics(torch.device("cuda"))
    real = Cohort._write

    def write(self: Cohort, *words: Any, numerics: Numerics, **parts: Any) -> None:
        real(self, *words, numerics=dataclasses.replace(described, unordered=numerics.unordered), **parts)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(Cohort, "_write", write)
    fix_order()
    bench = Bench(tmp_path, epochs=3)
    for name, stop in (("whole", 0), ("stopped", 2)):
        cells = [bench.cell("student"), bench.cell("scatters")]
        plain, scatters = (each["provenance"]["numerics"] for each in bench.run(cells, stop, name))
        assert plain["deterministic"] is True
        assert scatters["deterministic"] is False
        assert scatters["deterministic_rule"] == f"no fixed order in {UNORDERED}"

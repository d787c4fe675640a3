"""Six methods: as the peers run them, one by one in kdbench, and in one cohort.

A round is a few training steps, each with its batch, its teacher's pass, its loss and its update, after a warm-up.
Building networks, starting worker processes, evaluation and checkpoints are left out on all sides.
"""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import reference
from benchmarks.paced import Workshop
from benchmarks.setting import SIX, Setting
from kdbench.hardware.numerics import Numerics, resolve

GROUP = "six methods"


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("method", SIX)
def test_a_method_as_the_peers_run_it(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, automatic: Numerics, method: str
) -> None:
    time_reference(benchmark, setting, workshop, automatic, method, "before")


@pytest.fixture(params=["automatic", "uncompiled", "fp32"])
def numerics(request: pytest.FixtureRequest, automatic: Numerics, workshop: Workshop, setting: Setting) -> Numerics:
    """What `kdbench run` chooses, and the same uncompiled and in fp32 where that is something else."""
    chosen = workshop.cohort(["kd"], setting.teacher, setting.student).numerics
    if request.param == "automatic":
        return chosen
    if request.param == "uncompiled":
        if not chosen.describe()["compile"]:
            pytest.skip("nothing is compiled on this machine")
        return resolve(precision=chosen.precision, compile="off")
    if automatic.precision == "fp32":
        pytest.skip("the automatic precision is fp32 on this machine")
    return resolve(precision="fp32", compile="off")


def about(numerics: Numerics, setting: Setting, side: str) -> dict[str, Any]:
    how = numerics.precision + (", compiled" if numerics.describe()["compile"] else "")
    return {"side": side, "how": how, "steps": setting.steps}


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("method", SIX)
def test_a_method_alone(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, numerics: Numerics, method: str
) -> None:
    cohort = workshop.cohort([method], setting.teacher, setting.student, numerics)
    benchmark.extra_info |= {"method": method, **about(numerics, setting, "alone")}
    benchmark.pedantic(cohort.steps, args=(setting.steps,), rounds=setting.rounds, warmup_rounds=1)


@pytest.mark.benchmark(group=GROUP)
def test_all_in_one_cohort(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, numerics: Numerics
) -> None:
    cohort = workshop.cohort(SIX, setting.teacher, setting.student, numerics)
    assert len(cohort.learners) == len(SIX)
    benchmark.extra_info |= about(numerics, setting, "cohort")
    benchmark.pedantic(cohort.steps, args=(setting.steps,), rounds=setting.rounds, warmup_rounds=1)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("method", SIX)
def test_a_method_as_the_peers_run_it_again(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, automatic: Numerics, method: str
) -> None:
    """After kdbench's turn as well, so that a drift of the machine's speed meets both sides."""
    time_reference(benchmark, setting, workshop, automatic, method, "after")


def time_reference(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, automatic: Numerics, method: str, when: str
) -> None:
    teacher, student = workshop.networks(setting.teacher, setting.student)
    images = reference.loader(workshop.data, setting.batch_size, setting.workers)
    loop = reference.Loop(method, student, teacher, images, automatic.device)
    benchmark.extra_info |= {"when": when, "side": "reference", "method": method, "how": "fp32", "steps": setting.steps}
    benchmark.pedantic(loop.steps, args=(setting.steps,), rounds=setting.rounds, warmup_rounds=1)

"""What each method costs: its step beside the plain student's, and all methods in one cohort.

All in a training's last epoch, after its phases and ramps; what is done once before training is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.paced import Workshop, timed
from benchmarks.setting import Setting
from kdbench import registry
from kdbench.suites.grid import PLAIN, MethodSpec

# shorter preparations, which change no step
ONCE: dict[str, dict[str, Any]] = {"ig_kd": {"ig_steps": 1}, "lshfm": {"bias": "zero"}}


def names(setting: Setting) -> tuple[str, ...]:
    return setting.methods or tuple(registry.names("image"))


def spec(method: str) -> MethodSpec:
    return MethodSpec(method, ONCE.get(method, {}), title=method)


@pytest.fixture(scope="module")
def student_step(tmp_path_factory: pytest.TempPathFactory, data: Path, setting: Setting) -> Callable[[], None]:
    """One step of the plain student."""
    workshop = Workshop(
        tmp_path_factory.mktemp("student"), data, setting.batch_size, setting.assistants, setting.epochs
    )
    step = workshop.cohort([PLAIN], setting.teacher, setting.student, last_epoch=True).step_of_one()
    step()  # the first one measures memory
    return step


@pytest.mark.benchmark(group="one step of each method, the teachers' passes left out")
@pytest.mark.parametrize("method", registry.names("image"))
def test_a_step_of_each_method_beside_the_plain_students(
    benchmark: BenchmarkFixture,
    setting: Setting,
    workshop: Workshop,
    student_step: Callable[[], None],
    method: str,
) -> None:
    """The student steps before each round, so that a drift of the machine's speed meets both."""
    if method not in names(setting):
        pytest.skip("left out at this size")
    cohort = workshop.cohort([spec(method)], setting.teacher, setting.student, last_epoch=True)
    if not cohort.learners:
        pytest.skip("does not apply to this pair")
    step = cohort.step_of_one()
    beside: list[float] = []

    step()
    benchmark.extra_info |= {"method": method, "student_seconds": beside}
    benchmark.pedantic(step, setup=timed(student_step, beside), rounds=setting.rounds)


@pytest.mark.benchmark(group="one step of all methods in one cohort")
def test_all_methods_in_one_cohort(benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop) -> None:
    """The round holds everything; own times leave the batch and the teachers' passes out."""
    methods = [spec(name) for name in names(setting)]
    cohort = workshop.cohort(methods, setting.teacher, setting.student, last_epoch=True)
    cohort.steps(1)
    cohort.own_seconds()
    benchmark.pedantic(cohort.steps, args=(1,), rounds=setting.rounds)
    own = {method: seconds / setting.rounds for method, seconds in cohort.own_seconds().items()}
    benchmark.extra_info |= {"own_seconds": own, "teachers": len(cohort.loaded)}

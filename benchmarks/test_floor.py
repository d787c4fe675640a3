"""How far a step is from the machine's rate of matrix products: its operations, counted, over that rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paced import Paced, Workshop, synchronize
from benchmarks.profiles import by_operation
from benchmarks.setting import SIX, Setting
from kdbench.hardware.numerics import Numerics

GROUP = "distance to the floor"


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("side", [1024, 2048, 4096])
def test_a_product_of_matrices(benchmark: BenchmarkFixture, setting: Setting, automatic: Numerics, side: int) -> None:
    """The best of these rates, in the automatic precision, is the machine's."""
    side = min(side, setting.largest_matrix)
    dtype = torch.bfloat16 if automatic.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=automatic.device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(a, b)
        synchronize(automatic.device)

    benchmark.extra_info |= {"what": "matrices", "side": side, "flops": 2 * side**3, "precision": automatic.precision}
    benchmark.pedantic(multiply, rounds=2 * setting.rounds, warmup_rounds=1)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("what", ["teacher", "student", "cohort"])
def test_a_step_and_its_parts(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, automatic: Numerics, what: str
) -> None:
    """The teacher's pass, the plain student's update, and the whole step of six methods in one cohort."""
    methods = {"teacher": ["kd"], "student": ["student"], "cohort": SIX}[what]
    makers: dict[str, Callable[[Paced], Callable[[], None]]] = {
        "teacher": teachers_pass,
        "student": Paced.step_of_one,
        "cohort": lambda cohort: lambda: cohort.steps(1),
    }
    # torch counts operations only where nothing is compiled
    counted = makers[what](workshop.cohort(methods, setting.teacher, setting.student, automatic))
    work = makers[what](workshop.cohort(methods, setting.teacher, setting.student))
    for first in (counted, work):
        first()  # measures memory
    benchmark.extra_info |= {"what": what, "flops": operations(counted), "precision": automatic.precision}
    benchmark.pedantic(work, rounds=2 * setting.rounds, warmup_rounds=1)
    benchmark.extra_info["profile"] = by_operation(work)


def teachers_pass(cohort: Paced) -> Callable[[], None]:
    (teacher,) = cohort.loaded.values()
    batch = next(iter(cohort.data.epoch(0)))

    def run() -> None:
        with cohort.numerics.autocast():
            teacher(batch)
        synchronize(cohort.numerics.device)

    return run


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions, forward and backward, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()

"""Each student's step in bf16 beside the same in fp32: what the rule of the automatic precision rests on."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.paced import Workshop, timed
from benchmarks.setting import Setting
from kdbench.hardware.machine import multiplies_bf16
from kdbench.hardware.numerics import Numerics, resolve
from kdbench.suites.grid import PLAIN
from kdbench.training.precision import numerics_of

# of the suites; the last three and timm's have grouped convolutions
STUDENTS = (
    "cifar_resnet8", "cifar_resnet20", "cifar_resnet32", "cifar_resnet8x4", "cifar_wrn_16_2", "cifar_wrn_40_1",
    "cifar_vgg8", "test_efficientnet", "cifar_mobilenetv2", "cifar_shufflenetv1", "cifar_shufflenetv2",
)  # fmt: skip


@pytest.mark.benchmark(group="a student's step in bf16 beside fp32")
@pytest.mark.parametrize("network", STUDENTS)
def test_a_students_step_in_bf16_beside_fp32(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, automatic: Numerics, network: str
) -> None:
    """The step in fp32 comes before each round, so that a drift of the machine's speed meets both."""
    if not multiplies_bf16(automatic.device):
        pytest.skip("this machine has no native bf16")
    if setting.methods and network not in (setting.student, "cifar_mobilenetv2"):
        pytest.skip("left out at this size")
    bf16, fp32 = (
        workshop.cohort([PLAIN], setting.small_teacher, network, resolve(precision=precision))
        for precision in ("bf16", "fp32")
    )
    chosen = numerics_of(bf16.cells[0]).precision
    step, other = bf16.step_of_one(), fp32.step_of_one()
    step()  # the first one measures memory
    other()
    seconds: list[float] = []

    benchmark.extra_info |= {"network": network, "automatic": chosen, "fp32_seconds": seconds}
    benchmark.pedantic(step, setup=timed(other, seconds), rounds=2 * setting.rounds)

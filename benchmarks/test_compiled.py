"""Each network compiled beside the same as it is: what the rule of the automatic compilation rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.paced import CIFAR, Workshop, cells, synchronize, timed
from benchmarks.setting import Setting
from kdbench.hardware import heap
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Network
from kdbench.reads import Taps
from kdbench.suites.grid import PLAIN, MethodSpec
from kdbench.training.precision import numerics_of

# (network, whether frozen): students and teachers of the suites
NETWORKS = (
    ("cifar_resnet8", False), ("cifar_resnet20", False), ("cifar_resnet8x4", False), ("cifar_wrn_16_2", False),
    ("cifar_vgg8", False), ("cifar_mobilenetv2", False),
    ("cifar_resnet56", True), ("cifar_resnet32x4", True), ("cifar_wrn_40_2", True), ("cifar_vgg13", True),
)  # fmt: skip


@pytest.mark.benchmark(group="a network compiled beside plain")
@pytest.mark.parametrize(("name", "frozen"), NETWORKS)
def test_a_network_compiled_beside_the_same_as_it_is(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, name: str, frozen: bool
) -> None:
    """The plain one runs before each round, so that a drift of the machine's speed meets both."""
    if setting.methods and name != setting.small_student:
        pytest.skip("left out at this size")
    # a teacher's numerics are its student's
    teacher, student = (name, setting.small_student) if frozen else (setting.small_teacher, name)
    (cell,) = cells("cifar100", CIFAR, teacher, student, [MethodSpec(PLAIN)], setting.assistants)
    chosen = numerics_of(cell)
    task = workshop.task("cifar100", dataclasses.replace(CIFAR, batch_size=setting.batch_size), chosen)
    network = task.network(name).requires_grad_(not frozen).train(not frozen)
    batch = next(iter(task.training_set(0, False).epoch(0)))
    compiled, plain = (
        work(network, batch, dataclasses.replace(chosen, compile=on, verdicts=()), frozen) for on in (True, False)
    )
    if chosen.device.type == "cpu":
        heap.keep()  # as in a run
    compiled()
    plain()
    seconds: list[float] = []

    by_name = {(network, still): on for network, still, on in chosen.verdicts}
    benchmark.extra_info |= {
        "network": name,
        "frozen": frozen,
        "chosen": by_name.get((name, frozen), chosen.compile),
        "plain_seconds": seconds,
    }
    benchmark.pedantic(compiled, setup=timed(plain, seconds), rounds=3 * setting.rounds)


def work(network: Network, batch: Batch, numerics: Numerics, frozen: bool) -> Callable[[], None]:
    """A frozen network's pass, or a pass forward and backward."""
    call = numerics.compiled(network, len(batch), None if frozen else Taps())

    def run() -> None:
        with numerics.autocast(), torch.set_grad_enabled(not frozen):
            logits = call(batch.inputs).logits
        if not frozen:
            F.cross_entropy(logits, batch.targets).backward()
            network.zero_grad()
        torch.clear_autocast_cache()
        synchronize(numerics.device)

    return run

"""Would students of one architecture be faster as one computation? Six of them, forward and backward."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks.batched import WAYS
from benchmarks.paced import Workshop, synchronize
from benchmarks.setting import SIX, Setting
from kdbench.hardware.numerics import Numerics


def students(workshop: Workshop, name: str, numerics: Numerics, count: int) -> list[nn.Module]:
    """Plain networks, images to logits, in train mode, whose BatchNorms keep no running statistics."""
    networks = []
    for _ in range(count):
        _, network = workshop.networks(name, name)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats, module.num_batches_tracked = False, None
                module.running_mean = module.running_var = None
        networks.append(numerics.place(network.core).train())
    return networks


def random_batch(setting: Setting, numerics: Numerics) -> tuple[Tensor, Tensor]:
    inputs = numerics.place_inputs(torch.randn(setting.batch_size, 3, 32, 32))
    return inputs, torch.randint(0, 100, (setting.batch_size,), device=numerics.device)


@pytest.mark.benchmark(group="six students of one architecture, forward and backward")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_six_students_as_one_computation(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, automatic: Numerics, width: str, way: str
) -> None:
    name = setting.student if width == "wide" else setting.small_student
    step = WAYS[way](students(workshop, name, automatic, len(SIX)), automatic)
    batch = random_batch(setting, automatic)

    def run() -> None:
        step(*batch)
        synchronize(automatic.device)

    benchmark.extra_info |= {"way": way, "network": name, "precision": automatic.precision}
    benchmark.pedantic(run, rounds=2 * setting.rounds, warmup_rounds=1)

"""From 1 to 32 learners a cohort: the time of a cell, and the memory of a learner."""

from __future__ import annotations

import gc
import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from benchmarks.paced import Paced, Workshop
from benchmarks.setting import SMALLEST, Setting
from kdbench.suites.grid import MethodSpec

STEPS, ROUNDS = 2, 9


def build(workshop: Workshop, setting: Setting, learners: int) -> Paced:
    """Learners that differ in a hyperparameter, as in a sweep."""
    methods = [MethodSpec("kd", {"temperature": 1.0 + number / 4}) for number in range(learners)]
    return workshop.cohort(methods, setting.small_teacher, setting.small_student)


@pytest.mark.benchmark(group="cost against the size of a cohort")
@pytest.mark.parametrize("learners", [1, 2, 4, 8, 16, 32])
def test_the_cost_of_a_cell_against_the_size_of_its_cohort(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, learners: int
) -> None:
    """The smallest cohort trains before each round, so that a drift of the machine's speed meets both."""
    if learners > setting.largest_cohort:
        pytest.skip("left out at this size")
    steps, rounds = (STEPS, ROUNDS) if setting.rounds > 1 else (1, 1)
    smallest = build(workshop, setting, SMALLEST)
    smallest.steps(1)  # the first one measures memory
    before = live_bytes()
    cohort = build(workshop, setting, learners)
    cohort.steps(1)
    grown = live_bytes() - before
    beside: list[tuple[float, float]] = []
    mine: list[tuple[float, float]] = []

    def run(which: Paced, times: list[tuple[float, float]]) -> None:
        which.own_seconds()
        start = time.perf_counter()
        which.steps(steps)
        each = steps * len(which.learners)
        times.append(((time.perf_counter() - start) / each, sum(which.own_seconds().values()) / each))

    benchmark.pedantic(run, args=(cohort, mine), setup=lambda: run(smallest, beside), rounds=rounds)
    benchmark.extra_info |= {
        "learners": learners,
        "cell_seconds": mine,  # of a learner's step: (with its share of batch and teacher, its own), one pair a round
        "smallest_cell_seconds": beside,
        "bytes": grown,
        "bytes_of_one": bytes_of_one(cohort),
    }


def live_bytes() -> int:
    """The bytes of all tensors there are, each storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    gradients = [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    return distinct_bytes([*tensors, *gradients])


def bytes_of_one(cohort: Paced) -> int:
    """What one learner needs: weights, buffers, gradients and the optimizer's state."""
    learner = cohort.learners[0]
    modules = torch.nn.ModuleList([*learner.students, learner.method])
    state = [value for held in learner.optimizer.state.values() for value in held.values() if isinstance(value, Tensor)]
    gradients = [p.grad for p in modules.parameters() if p.grad is not None]
    return distinct_bytes([*modules.parameters(), *modules.buffers(), *gradients, *state])


def distinct_bytes(tensors: list[Tensor]) -> int:
    held = (tensor for tensor in tensors if tensor.device.type != "meta" and not isinstance(tensor, FakeTensor))
    storages = [tensor.untyped_storage() for tensor in held]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

"""The peak memory of a step on CUDA, from an allocator that the test plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdbench.hardware import memory
from kdbench.testing.trial import FP32, Bench

CUDA = torch.device("cuda")


class Allocator:
    """Counts what the test says is held; `others` bytes are of other learners."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = self.most = 0
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: self.take(0, anew=True))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: self.held)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.most)

    def take(self, size: int, anew: bool = False) -> None:
        self.held += size
        self.most = self.held if anew else max(self.most, self.held)


def own(module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    tensors = [*module.parameters(), *(p.grad for p in module.parameters() if p.grad is not None)]
    tensors += [value for slots in optimizer.state.values() for value in slots.values()]
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("others", [0, 2**24])
def test_weights_gradients_and_the_optimizers_state_count_and_other_learners_do_not(
    monkeypatch: pytest.MonkeyPatch, momentum: float, others: int
) -> None:
    monkeypatch.setattr(memory, "_on", lambda tensor, device: True)  # there are only CPU tensors here
    allocator, module = Allocator(monkeypatch), nn.Linear(512, 512)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=momentum)
    module(torch.ones(4, 512)).sum().backward()
    optimizer.step()
    held = own(module, optimizer)
    assert held == pytest.approx((3 if momentum else 2) * 2**20, rel=0.01)
    allocator.take(others + held)
    with memory.peak(module, optimizer, CUDA) as measured:
        allocator.take(5 * 2**20)  # activations
        allocator.take(-5 * 2**20)
    assert measured.mb == pytest.approx(held / 2**20 + 5)


def test_the_state_that_the_first_step_makes_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_on", lambda tensor, device: True)
    allocator, module = Allocator(monkeypatch), nn.Linear(512, 512)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    allocator.take(own(module, optimizer))
    with memory.peak(module, optimizer, CUDA) as measured:
        before = own(module, optimizer)
        module(torch.ones(4, 512)).sum().backward()
        optimizer.step()
        allocator.take(own(module, optimizer) - before)
    assert measured.mb == pytest.approx(own(module, optimizer) / 2**20)


@pytest.mark.parametrize(("device", "measured"), [("cpu", [1]), ("cuda", [2])])
def test_on_cuda_the_second_step_is_measured_since_a_compiler_works_within_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, measured: list[int]
) -> None:
    bench = Bench(tmp_path, epochs=2, samples=48)
    learner = bench.learner(bench.cell("student"))
    learner.numerics = dataclasses.replace(FP32, device=torch.device(device))
    steps: list[int] = []

    @contextmanager
    def peak(*_: Any) -> Iterator[memory.Peak]:
        steps.append(number)
        yield memory.Peak(7.0)

    monkeypatch.setattr(memory, "peak", peak)
    learner.begin_epoch()
    for number, batch in enumerate(learner.data.epoch(0), 1):
        learner.train_step(number, batch, ())
    assert number == 3
    assert (steps, learner.peak_memory_mb) == (measured, 7.0)

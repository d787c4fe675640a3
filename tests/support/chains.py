"""What the tests of chains of assistants share: an engine's learner, epoch by epoch, and who runs in a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from support.loops import batch, logits, output
from torch import Tensor, nn

from kdbench import Output, registry
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner


def learner(folder: Path, name: str, **hyperparameters: Any) -> Learner:
    torch.set_default_dtype(torch.float32)
    bench = Bench(folder)
    return bench.learner(bench.cell(name, **hyperparameters))


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def moved(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def train_epoch(one: Learner) -> None:
    one.begin_epoch()
    for number, data in enumerate(one.data.epoch(one.epoch)):
        with torch.no_grad():
            outputs = [teacher(data.inputs) for teacher in one.teachers]
        one.train_step(number, data, outputs)
    one.end_epoch(None, 0.0)


def networks_that_move(chain: Learner) -> list[list[int]]:
    """In each epoch, the numbers of the networks that train."""
    trained = []
    while not chain.finished:
        before = [state(network) for network in chain.students]
        train_epoch(chain)
        trained.append([k for k, network in enumerate(chain.students) if moved(network, before[k])])
    return trained


def watched(name: str, phase: str, **hyperparameters: Any) -> tuple[int, list[tuple[int, bool]]]:
    """How many guides a step has, and which networks it runs, each with or without a gradient."""
    method = registry.create(name, hyperparameters)
    method.phase = phase
    ran: list[tuple[int, bool]] = []
    guides: list[int] = []

    def forward(student: int) -> Output:
        ran.append((student, torch.is_grad_enabled()))
        return output(logits())

    loss: Callable[..., Any] = method.loss
    method.loss = lambda batch, student, teacher: guides.append(len(teacher)) or loss(batch, student, teacher)
    taught = [output(logits().detach())]
    method.step(SimpleNamespace(batch=batch(), forward=forward, teacher_outputs=taught, update=lambda terms: None))
    return guides[0], ran

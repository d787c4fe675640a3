"""What the tests of methods that change inputs share: tiny networks with BatchNorm, so that a statistic that moves is
seen, and the engine's step.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from support.loops import CLASSES, Whole, close
from torch import Tensor, nn

from kdbench import Batch, Output, Shapes, registry
from kdbench.testing.trial import FP32, Bench

SIDE = 6


class Tiny(nn.Module):
    """A smooth network of one convolution on images of two channels."""

    name = "tiny"

    def __init__(self, width: int = 4, channels: int = 2) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, CLASSES)
        with torch.no_grad():
            self.conv.weight.mul_(2)
            self.classifier.weight.mul_(6)
            self.norm.running_mean.normal_(std=0.1)
        self.shapes = Shapes(CLASSES, width, ((width, SIDE - 2, SIDE - 2),))
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Output:
        self.seen.append(inputs.detach())
        feature = F.softplus(self.norm(self.conv(inputs)))
        embedding = feature.mean((2, 3))
        return Output(self.classifier(embedding), embedding, (feature,))


@dataclass
class FakeStep:
    """The engine's step without an optimizer: `update` notes the terms."""

    batch: Batch
    students: Sequence[Any]
    teachers: Sequence[Any]
    optimizer: Any = None
    updates: list[Mapping[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with torch.no_grad():
            self.teacher_outputs = [copy.deepcopy(teacher)(self.batch.inputs) for teacher in self.teachers]

    def forward(self, student: int = 0, inputs: Tensor | None = None) -> Output:
        return self.students[student](self.batch.inputs if inputs is None else inputs)

    def update(self, terms: Mapping[str, Tensor]) -> None:
        self.updates.append(dict(terms))


def teacher_and_student(likeness: float = 0.3, channels: int = 2) -> tuple[Any, Any]:
    """A frozen teacher in eval mode, and a student in train mode that is near it."""
    teacher = Tiny(channels=channels)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(likeness * torch.randn_like(parameter))
    return teacher.requires_grad_(False).eval(), student.train()


def images(size: int = 8, side: int = SIDE) -> Tensor:
    return torch.randn(size, 2, side, side)


def whole(inputs: Tensor, targets: Tensor | None = None) -> Whole:
    targets = torch.arange(len(inputs)) % CLASSES if targets is None else targets
    return Whole(Batch(inputs, targets, torch.arange(len(inputs))))


def step_on(teacher: Any, student: Any, inputs: Tensor, targets: Tensor | None = None) -> FakeStep:
    return FakeStep(whole(inputs, targets).whole, [student], [teacher])


def ready(name: str, teacher: Any, student: Any, inputs: Tensor, **hyperparameters: Any) -> Any:
    """The method after build and prepare, in the last of 24 epochs."""
    method = registry.create(name, hyperparameters)
    method.build(student, teacher)
    method.prepare(whole(inputs), [teacher])
    method.epoch, method.epochs = 24, 24
    return method


def state(*networks: nn.Module) -> list[Tensor]:
    return [tensor.clone() for network in networks for tensor in network.state_dict().values()]


def same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, before, after))


def agree(
    terms: Mapping[str, Tensor], network: nn.Module, expected: Mapping[str, Tensor], reference: nn.Module
) -> None:
    """The terms, and the gradients of their sum: of ours in `network`, of the loops' in its copy `reference`."""
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        close(term, expected[name])
    ours = torch.autograd.grad(sum(terms.values()), list(network.parameters()))
    theirs = torch.autograd.grad(sum(expected.values()), list(reference.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)


def euclidean(x: Tensor) -> Tensor:
    return torch.sqrt(sum(value**2 for value in x.flatten()))


def trains_in_bf16_and_resumes(folder: Path, name: str, **hyperparameters: Any) -> None:
    """A cell is done, and has the same bits after a stop."""
    torch.set_default_dtype(torch.float32)
    bench = Bench(folder, numerics=dataclasses.replace(FP32, precision="bf16"))
    cell = bench.cell(name, **hyperparameters)
    runs = {"straight": 0, "interrupted": 3}  # in which epoch it is stopped
    records = [bench.run([cell], stop_after, folder)[0] for folder, stop_after in runs.items()]
    assert [record["status"] for record in records] == ["done", "done"], records[0]["reason"]
    straight, interrupted = (bench.weights[folder, cell.id] for folder in runs)
    assert all(torch.equal(tensor, interrupted[key]) for key, tensor in straight.items())

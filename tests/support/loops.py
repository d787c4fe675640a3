"""What the tests of methods' equations share: small random outputs, and the papers' quantities as plain loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import Batch, Output, Shapes

BATCH, CLASSES = 5, 4


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Seeded float64 by default; imported by name, it holds for every test of a file."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def logits(classes: int = CLASSES, size: int = BATCH) -> Tensor:
    return (3 * torch.randn(size, classes)).requires_grad_()


def output(z: Tensor | None = None, features: Iterable[Tensor] = (), embedding: Tensor | None = None) -> Output:
    z = logits() if z is None else z
    return Output(z, torch.zeros(len(z), 1) if embedding is None else embedding, tuple(features))


def batch(classes: int = CLASSES, size: int = BATCH) -> Batch:
    return Batch(torch.zeros(size, 1), torch.arange(size) % classes, torch.arange(size))


def network(*features: tuple[int, ...], embedding: int = 3, classes: int = CLASSES, **more: Any) -> Any:
    """What `build` sees of a network."""
    return SimpleNamespace(name="some", shapes=Shapes(classes, embedding, features), **more)


class Whole:
    """What `prepare` sees of a training set."""

    def __init__(self, whole: Batch) -> None:
        self.whole, self.targets = whole, whole.targets
        self.num_classes = int(whole.targets.max()) + 1

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self) -> Iterator[Batch]:
        for chosen in torch.arange(len(self)).split(8):
            yield Batch(self.whole.inputs[chosen], self.targets[chosen], chosen)


def probabilities(z: Tensor, temperature: float = 1.0) -> list[Tensor]:
    """Softmax of one sample's logits `[K]`, class by class."""
    exponentials = [torch.exp(value / temperature) for value in z]
    return [value / sum(exponentials) for value in exponentials]


def cross_entropy(z: Tensor, target: int) -> Tensor:
    return -torch.log(probabilities(z)[target])


def divergence(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    return sum((t * torch.log(t / s) for t, s in zip(teacher, student, strict=True)), torch.zeros(()))


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """One sample's divergence times T², the teacher's logits a constant."""
    theirs = probabilities(teacher.detach(), temperature)
    return temperature**2 * divergence(theirs, probabilities(student, temperature))


def mean(values: Iterable[Tensor]) -> Tensor:
    values = list(values)
    return sum(values, torch.zeros(())) / len(values)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def agree(terms: Mapping[str, Tensor], expected: Mapping[str, Tensor], tensors: Sequence[Tensor]) -> None:
    """Every term, and the gradient of their sum with respect to every tensor."""
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        close(term, expected[name])
    ours, theirs = (torch.autograd.grad(sum(each.values()), tensors) for each in (terms, expected))
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)


def dataset(targets: Tensor) -> Whole:
    """A training set whose inputs are never looked at."""
    return Whole(Batch(torch.zeros(len(targets), 1), targets, torch.arange(len(targets))))


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """A sum that can be differentiated more than once."""
    return torch.stack(list(terms.values())).sum()


def mutual_by_loops(outputs: Sequence[Output], data: Batch, i: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Student i's cross-entropy and its mean divergence from its peers."""
    own = outputs[i].logits
    ce = mean(cross_entropy(own[n], int(data.targets[n])) for n in range(BATCH))
    peers = [outputs[j].logits for j in range(len(outputs)) if j != i]
    return ce, mean(mean(kl(own[n], peer[n], temperature) for n in range(BATCH)) for peer in peers)

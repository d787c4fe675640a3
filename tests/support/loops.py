"""What the tests of methods' equations share: small random outputs, and the papers' quantities as plain loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import Batch, Network, Output, Shapes, registry
from kdbench.tasks.image.networks import create

BATCH, CLASSES = 5, 4

Shape = tuple[int, ...]


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


def maps(*shapes: Shape, size: int = BATCH, trained: bool = False) -> list[Tensor]:
    return [torch.randn(size, *shape, requires_grad=trained) for shape in shapes]


def embedded(width: int, size: int = BATCH, trained: bool = False) -> Output:
    return output(logits(size=size), embedding=torch.randn(size, width, requires_grad=trained))


def labels(z: Tensor, data: Batch) -> Tensor:
    """The batch's cross-entropy."""
    return mean(cross_entropy(z[n], int(data.targets[n])) for n in range(len(z)))


def imitation(z: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The batch's divergence from the teacher."""
    return mean(kl(z[n], teacher[n], temperature) for n in range(len(z)))


def squares(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference, sample by sample."""
    return mean(((x - y) ** 2).sum() / x.numel() for x, y in zip(a, b, strict=True))


def halved(x: Tensor) -> Tensor:
    """Means of 2x2 squares."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution without bias, channel by channel."""
    weight = conv.weight[:, :, 0, 0]
    return torch.stack([sum(weight[o, c] * x[:, c] for c in range(x.shape[1])) for o in range(len(weight))], 1)


def normed(bn: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm with the batch's statistics, channel by channel."""
    channels = []
    for c in range(x.shape[1]):
        values = x[:, c]
        centred = values - values.sum() / values.numel()
        deviation = torch.sqrt((centred**2).sum() / values.numel() + bn.eps)
        channels.append(bn.weight[c] * centred / deviation + bn.bias[c])
    return torch.stack(channels, 1)


def real(name: str, size: int = 16, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return create(name, num_classes=CLASSES, in_chans=3, input_size=(3, size, size))


def images(size: int = 16, count: int = BATCH) -> Batch:
    data = batch(size=count)
    return Batch(torch.randn(count, 3, size, size), data.targets, data.indices)


def activations(*shapes: Shape) -> list[Tensor]:
    """A student's maps as they are behind a ReLU."""
    return [torch.rand(BATCH, *shape, requires_grad=True) for shape in shapes]


def pooled(feature: Tensor) -> Tensor:
    """`[B, C, H, W]` to `[B, C]`, position by position."""
    _, _, height, width = feature.shape
    return sum(feature[:, :, i, j] for i in range(height) for j in range(width)) / (height * width)


class Fixed(nn.Module):
    """A network that always says the same."""

    def __init__(self, said: Output) -> None:
        super().__init__()
        self.said = said

    def forward(self, inputs: Tensor) -> Output:
        return self.said


def bfloat16_terms(name: str, several: bool = False, **hyperparameters: Any) -> dict[str, Tensor]:
    """A method's terms under autocast, from maps in bfloat16; `several` is for methods with two teachers."""
    torch.set_default_dtype(torch.float32)
    shape = (4, 4, 4)
    side = network(shape, shape, embedding=4, classifier=nn.Linear(4, CLASSES))
    method: Any = registry.create(name, hyperparameters)
    method.build(side, [side, side] if several else side)
    method.epoch = 2
    student, teacher = (output(logits(), [torch.randn(BATCH, *shape).bfloat16() for _ in range(2)]) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return method.loss(batch(), student, [teacher, teacher] if several else teacher)

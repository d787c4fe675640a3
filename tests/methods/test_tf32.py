"""Losses that leave autocast keep their gradients where an accelerator multiplies float32 in TF32.

Two networks that learnt the digits give the outputs, since trained features are alike, and small differences of them
are what such losses live on. The gradient in the student's outputs and in the method's own layers is held against
float64.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from support.tf32 import outside_autocast, rounded
from torch import Tensor, nn

from kdbench import Batch, Method, MultiTeacherMethod, MutualMethod, Network, Output, registry
from kdbench.seeding import seed_all
from kdbench.tasks.image.networks import create

KEPT = 128  # training images that `prepare` sees; the batch comes after them, as an augmented one is none of them
SAMPLES = 64
LARGEST = 1e-3  # two of TF32's roundings, 2^-11 each
VIEWS = {"dlkd": 4, "ssl_kd": 4}  # how many views of each image the student sees

# what leaves autocast only to run whole networks in float32: no product of the loss's own
NETWORKS_ALONE = {"backward_kd", "bss", "dot", "ig_kd"}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("ickd", {"normalise_rows": False}),
    ("lshfm", {"variant": "lsh"}),
    ("lshfm", {"bias": "zero"}),
    ("srrl", {"variant": "vector"}),
    ("tekap", {"feature_weight": 0.8}),
]


def leaves_autocast(name: str) -> bool:
    source = Path(inspect.getfile(registry.get(name))).read_text(encoding="utf-8")
    return name not in NETWORKS_ALONE and ("enabled=False" in source or "squared_distances" in source)


CASES = [*((name, {}) for name in registry.names("image") if leaves_autocast(name)), *OPTIONS]


def learnt(name: str, seed: int, images: Tensor, targets: Tensor) -> Network:
    """Trained in float64, where all processors come to the same weights: how near a bound a loss is depends on them."""
    torch.manual_seed(seed)
    network = create(name, num_classes=10, in_chans=1, input_size=(1, 8, 8)).double()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, nesterov=True)
    for chosen in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(network(images[chosen].double()).logits, targets[chosen]).backward()
        optimizer.step()
    return network.float().requires_grad_(False).eval()


@dataclasses.dataclass
class Digits:
    """Images, a student, two teachers, and what `prepare` sees."""

    images: Tensor
    all_targets: Tensor
    student: Network
    pool: list[Network]
    dtype: torch.dtype = torch.float32
    num_classes: int = 10

    @property
    def targets(self) -> Tensor:
        return self.all_targets[:KEPT]

    def __len__(self) -> int:
        return KEPT

    def part(self, indices: Tensor) -> Batch:
        images = self.images[indices].to(self.dtype)
        return Batch(images, self.all_targets[indices], indices % KEPT, images.flip(3))

    def batches(self) -> Iterator[Batch]:
        return map(self.part, torch.arange(KEPT).split(SAMPLES))


@pytest.fixture(scope="module")
def digits() -> Digits:
    torch.set_default_dtype(torch.float32)
    data, targets = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = (data.float().reshape(-1, 1, 8, 8) - 4.9) / 6.0
    networks = [learnt("cifar_resnet8", seed, images, targets) for seed in range(3)]
    return Digits(images, targets, networks[0], networks[1:])


def gradients(
    digits: Digits,
    name: str,
    options: dict[str, Any],
    dtype: torch.dtype,
    within: AbstractContextManager[None],
    prepared: Method | None = None,
) -> tuple[list[Tensor], Method]:
    """Those of the terms that are no plain CE or KL, in the student's outputs and in the method's parameters.

    What `prepare` trains comes from `prepared`: a training carries roundings far from where they began, and the loss is
    what is held here.
    """
    seed_all("tf32")
    method: Method = registry.create(name, options)
    method.epoch, method.epochs = 100, 240
    data = dataclasses.replace(digits, dtype=dtype)
    student, *pool = (copy.deepcopy(network).to(dtype) for network in (digits.student, *digits.pool))
    teachers = pool if isinstance(method, MultiTeacherMethod) else pool[:1]
    students = [student] * len(method.members()) if isinstance(method, MutualMethod) else [student]
    method.phase = method.phases()[0].name
    method.bind(students, teachers)
    method.to(dtype).prepare(data, teachers)
    method.to(dtype)
    for mine, trained in zip(method.parameters(), (prepared or method).parameters(), strict=True):
        if not mine.requires_grad:
            mine.copy_(trained)
    views, leaves = VIEWS.get(name, 1), []
    batch = data.part(torch.arange(KEPT, KEPT + SAMPLES // views))
    shown = torch.stack([torch.rot90(digits.images[batch.indices + KEPT], k, (2, 3)) for k in range(views)], 1)

    def said(network: Network, leaf: bool) -> Output:
        """In float32, also where float64 goes on from it: the same outputs for all."""

        def given(tensor: Tensor) -> Tensor:
            tensor = tensor.to(dtype).clone().requires_grad_(leaf)
            leaves.extend([tensor] * leaf)
            return tensor

        output = network(shown.flatten(0, 1))
        maps = {key: tuple(map(given, getattr(output, key))) for key in ("features", "preactivations")}
        assert output.stem is not None
        output = Output(given(output.logits), given(output.embedding), **maps, stem=given(output.stem))
        return dataclasses.replace(output, strong=output)

    ours = [said(digits.student, True) for _ in students]
    theirs = [said(network, False) for network in digits.pool[: len(teachers)]]
    with smooth(), within:
        terms = method.compute(batch, ours, theirs)
    chosen = {key: term for key, term in terms.items() if key not in ("ce", "kd")} or terms
    parameters = [p for p in method.parameters() if p.requires_grad]
    total = torch.stack([term.double() for term in chosen.values()]).sum()
    found = torch.autograd.grad(total, [*leaves, *parameters], allow_unused=True, materialize_grads=True)
    parts = found[: len(leaves)], found[len(leaves) :]
    return [torch.cat([torch.zeros(1), *(x.flatten() for x in part)]) for part in parts], method


@contextmanager
def smooth() -> Iterator[None]:
    """A method's own ReLUs have no kink: a value that roundings push across it says nothing of a product."""
    with pytest.MonkeyPatch.context() as patch:
        for place in (torch, Tensor, F):
            patch.setattr(place, "relu", lambda x, inplace=False: F.elu(x))
        yield


def in_float32(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def drawn(*args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        like = args[0].dtype if isinstance(args[0], Tensor) else torch.float32
        return draw(*args, dtype=torch.float32, **kwargs).to(dtype or like)

    return drawn


def error(found: Tensor, reference: Tensor) -> float:
    return float((found.double() - reference).norm() / reference.norm().clamp(min=1e-30))


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_gradients_stay_within_a_thousandth(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    for draw in (torch.randn_like, torch.rand):  # the same numbers in float64
        monkeypatch.setattr(torch, draw.__name__, in_float32(draw))
    reference, prepared = gradients(digits, name, options, torch.float64, nullcontext())
    found, _ = gradients(digits, name, options, torch.float32, outside_autocast(), prepared)
    for ours, exactly in zip(found, reference, strict=True):
        assert error(ours, exactly) < LARGEST


def test_networks_alone_names_methods_that_leave_autocast() -> None:
    for name in NETWORKS_ALONE:
        assert "enabled=False" in Path(inspect.getfile(registry.get(name))).read_text(encoding="utf-8")


def distances(x: Tensor) -> Tensor:
    squares = x.pow(2).sum(1)
    with torch.autocast("cpu", enabled=False):
        products = x @ x.T
    return ((squares[:, None] + squares - 2 * products).clamp(min=0) + 1e-6).sqrt().mean()


def test_a_small_difference_of_large_products_is_seen_to_fail() -> None:
    """hkd's distances as they were: neither in float64, nor with a diagonal of zero."""
    x = 10 + 0.05 * torch.randn(32, 200, generator=torch.Generator().manual_seed(0))
    found = []
    for value, within in ((x, outside_autocast()), (x.double(), nullcontext())):
        value = value.clone().requires_grad_()
        with within:
            found.append(torch.autograd.grad(distances(value), value)[0])
    assert error(*found) > 0.1


def test_products_are_rounded_outside_autocast_alone_forward_and_backward() -> None:
    layer, x = nn.Linear(5, 3), torch.randn(4, 5, requires_grad=True)
    with outside_autocast():
        inside = layer(x)
        with torch.autocast("cpu", enabled=False):
            outside = layer(x)
    assert torch.equal(inside, layer(x))
    assert torch.equal(outside, F.linear(rounded(x), rounded(layer.weight), layer.bias))
    weights = torch.randn(4, 3)
    (gradient,) = torch.autograd.grad(outside, x, weights)
    torch.testing.assert_close(gradient, rounded(weights) @ rounded(layer.weight))
    assert not torch.equal(gradient, weights @ layer.weight)


def test_rounding_leaves_ten_bits_of_mantissa() -> None:
    x = torch.tensor([[1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -(1 + 2**-10 + 2**-12), 0.0]])
    expected = [1.0, 1 + 2**-10, 1.0, 1 + 2**-9, -(1 + 2**-10), 0.0]
    assert rounded(x).flatten().tolist() == expected

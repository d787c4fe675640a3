"""What a method reads of the training's progress, and ramps as numbers of the device that round as floats do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import Method, registry
from kdbench.training.ramps import EPOCH, Ramp, Reads

CPU = torch.device("cpu")


def ramp_of(value: float) -> tuple[Ramp, list[bool]]:
    read: list[bool] = []
    return Ramp(value, torch.tensor(value, dtype=torch.float64), lambda: read.append(True)), read


PRODUCTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "ramp * x": lambda ramp, x: ramp * x,
    "x * ramp": lambda ramp, x: x * ramp,
    "torch.mul": lambda ramp, x: torch.mul(x, ramp),
    "ramp * 0.3 * x": lambda ramp, x: ramp * 0.3 * x,
    "0.3 * ramp * x": lambda ramp, x: 0.3 * ramp * x,
    "ramp * (0.3 * x)": lambda ramp, x: ramp * (0.3 * x),
    "ramp * ramp * x": lambda ramp, x: ramp * ramp * x,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(), (64,)])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_with_a_ramp_has_the_bits_of_one_with_its_float(
    product: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 20):
        value = number / 20.7
        ramp, read = ramp_of(value)
        results = []
        for factor in (ramp, value):
            x = torch.randn(shape, generator=generator.manual_seed(number)).to(dtype).requires_grad_()
            y = PRODUCTS[product](factor, x)
            y.float().square().sum().backward()
            results.append((y, x.grad))
        (ours, our_gradient), (theirs, their_gradient) = results
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
        assert torch.equal(our_gradient, their_gradient)
        assert not read, "a graph of it holds no constant"


def test_a_float32_number_on_the_device_would_round_otherwise() -> None:
    """Why a ramp is float64 until it meets a tensor."""
    values = [(number / 20.7, 0.3) for number in range(1, 50)]
    exact = [torch.tensor(ramp * weight, dtype=torch.float32) for ramp, weight in values]
    rough = [torch.tensor(ramp, dtype=torch.float32) * weight for ramp, weight in values]
    assert any(a != b for a, b in zip(exact, rough, strict=True))


@pytest.mark.parametrize(
    "use",
    [
        lambda ramp: math.cos(math.pi * ramp),
        lambda ramp: 1 - ramp,
        lambda ramp: ramp + torch.ones(2),
        lambda ramp: torch.ones(2) - ramp,
        lambda ramp: torch.ones(2) / ramp,
        lambda ramp: ramp**2,
        lambda ramp: 2 / ramp,
        lambda ramp: -ramp,
        lambda ramp: ramp < 1,
        lambda ramp: bool(ramp),
        lambda ramp: torch.lerp(torch.zeros(2), torch.ones(2), ramp),
        lambda ramp: torch.ones(2, dtype=torch.int64) * ramp,
        lambda ramp: min(ramp, 0.5),
    ],
)
def test_whatever_else_is_done_is_done_with_the_float_and_noted(use: Callable[[Any], Any]) -> None:
    ramp, read = ramp_of(0.3)
    found, expected = use(ramp), use(0.3)
    assert read
    found = float(found) if isinstance(found, Ramp) else found
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


class Reading(Method):
    """Reads what it is told to."""

    def __init__(self, read: Callable[[Reading], Any]) -> None:
        super().__init__()
        self.read = read
        self.epochs = 10


def noted(read: Callable[[Reading], Any]) -> Reads:
    method, reads = Reading(read), Reads()
    with reads.noted(method):
        method.read(method)
    assert type(method) is Reading
    return reads


def test_what_is_read_is_noted() -> None:
    assert not noted(lambda method: method.epochs).on_host
    assert {what for _, what in noted(lambda method: method.epoch > 1).on_host} == {EPOCH}
    reads = noted(lambda method: method.warmup(0.5))
    assert not reads.on_host, "it reads the epoch, but by the engine's own function"
    assert [share for _, share in reads.ramps] == [0.5]


def test_parts_of_a_method_are_noted_each() -> None:
    method = registry.create("lskd", {"base": "dkd"})
    reads = Reads()
    with reads.noted(method):
        method.base.warmup(0.2)  # type: ignore[union-attr, operator]
    ((part, share),) = reads.ramps
    assert part is method.base
    assert share == 0.2


def test_ramps_are_filled_with_the_epochs_number() -> None:
    method, reads = Reading(lambda method: method.warmup(0.5)), Reads()
    with reads.noted(method):
        method.read(method)
    reads.place(CPU)
    with reads.noted(method, CPU):
        ramp = method.read(method)
    assert isinstance(ramp, Ramp)
    tensor = torch.ones(1)
    assert (ramp * tensor).item() == pytest.approx(0.2)
    method.epoch = 3
    reads.fill()
    assert (ramp * tensor).item() == pytest.approx(0.6)
    assert method.read(method) == 0.6, "outside of a capture it is a float as ever"


def test_a_ramp_that_decides_on_the_host_is_part_of_the_key() -> None:
    method, reads = Reading(lambda method: math.cos(method.warmup(0.5))), Reads()
    with reads.noted(method):
        method.read(method)
    reads.place(CPU)
    assert reads.values() == ()
    with reads.noted(method, CPU):
        method.read(method)
    assert reads.values() == (0.2,)
    method.epoch = 9
    assert reads.values() == (1.0,)

"""Strided convolutions over maps narrower than the stride, in bf16 on CPUs (docs/onednn-bf16-narrow.md).

The fault shows with AVX-512 alone; elsewhere these tests say that the mend changes nothing.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from kdbench.hardware.narrow import may_be_wrong
from kdbench.hardware.numerics import Numerics

CPU = torch.device("cpu")
BF16 = Numerics(CPU, precision="bf16")
DIRT = [1 << n for n in range(6, 20)]  # sizes of freed memory that holds NaN


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(16, 32, 3, stride=2, padding=1), (1, 1)),
        (nn.Conv2d(16, 32, 7, stride=2, padding=3, bias=False), (1, 1)),
        (nn.Conv2d(16, 32, 5, stride=4, padding=2), (3, 3)),
        (nn.Conv2d(16, 32, 3, stride=3, padding=1, groups=4), (4, 1)),
        (nn.Conv2d(16, 32, 3, stride=(1, 2), padding=1), (4, 1)),
        (nn.Conv2d(16, 32, 3, stride=2, padding=1), (1, 4)),
        (nn.Conv1d(16, 32, 3, stride=2, padding=1), (1,)),
    ],
    ids=str,
)
def test_gradients_over_narrow_maps_are_those_of_float64(layer: nn.Module, shape: tuple[int, ...]) -> None:
    placed, exact = BF16.place(copy.deepcopy(layer)), copy.deepcopy(layer).to(torch.bfloat16).double()
    images = torch.randn(8, 16, *shape).bfloat16()
    for _ in range(8):
        dirt = [torch.full((size,), float("nan")) for size in DIRT]
        del dirt
        ours, theirs = images.clone().requires_grad_(), images.double().requires_grad_()
        with BF16.autocast():
            outputs = placed(ours), exact(theirs)
        draws = torch.randn(outputs[1].shape).bfloat16()
        one = torch.autograd.grad(outputs[0], [ours, *placed.parameters()], draws)
        other = torch.autograd.grad(outputs[1], [theirs, *exact.parameters()], draws.double())
        for a, b in zip((outputs[0], *one), (outputs[1], *other), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=0.02, atol=0.02 * float(b.detach().abs().max()))


def test_a_network_whose_last_maps_are_one_pixel_trains_to_finite_weights() -> None:
    network = BF16.place(timm.create_model("test_resnet", in_chans=1, num_classes=10))
    images = BF16.place_inputs(torch.randn(32, 1, 8, 8))
    for _ in range(5):
        dirt = [torch.full((size,), float("nan")) for size in DIRT]
        del dirt
        with BF16.autocast():
            loss = nn.functional.cross_entropy(network(images).float(), torch.arange(32) % 10)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert max(float(gradient.abs().max()) for gradient in gradients) < 1e3


@pytest.mark.parametrize("width", [1, 2, 3, 4, 9])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (5, 4, 2), (4, 3, 1), (7, 2, 1)])
def test_a_layer_that_widens_is_the_same_layer(width: int, kernel: int, stride: int, padding: int) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, kernel, stride, padding)).double()
    placed = BF16.place(copy.deepcopy(plain))
    again = BF16.place(copy.deepcopy(placed))  # copied, and placed once more
    again.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 9, width, dtype=torch.float64)
    if width + 2 * padding < kernel:
        for network in (plain, placed, again):
            with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
                network(images)
        return
    expected = plain(images)
    compiled = torch.compile(placed, backend="aot_eager") if (width, kernel) == (1, 3) else placed  # takes seconds
    for network in (placed, again, compiled):
        torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)
    assert len(again[0]._forward_pre_hooks) == 1  # type: ignore[index, union-attr, arg-type]


def test_only_padded_strided_layers_in_bf16_widen() -> None:
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    assert may_be_wrong(layer)
    assert not Numerics(CPU).place(copy.deepcopy(layer))._forward_pre_hooks
    for other in (
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, stride=(2, 1), padding=1),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="reflect"),
    ):
        assert not may_be_wrong(other)
        assert not BF16.place(other)._forward_pre_hooks

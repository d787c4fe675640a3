"""What methods connect networks with: norms of any batch, unrolled steps, modes, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support import goldens
from support.inputs import Tiny, images, whole
from support.loops import (
    close,
    float64,  # noqa: F401  (a fixture for every test here)
)
from torch import nn

from kdbench import NotApplicable
from kdbench.connectors import (
    Unrolled,
    enlarge_to,
    evaluating,
    norm,
    pixel_range,
    pool_to,
    require_images,
    require_memory,
)


def test_a_norm_of_one_value_a_channel_uses_its_running_statistics_and_keeps_them() -> None:
    for axes in (0, 1, 2):
        layer = norm(3, axes).double()
        layer.running_mean += 1
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        x = torch.randn(1, 3, *[1] * axes).double()
        goldens.close(layer(x).flatten(), ((x.flatten() - 1) / (1 + layer.eps) ** 0.5).detach())
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 2), (2, 3, 1), (1, 3, 1, 2), (2, 3, 1, 1)])
def test_a_norm_of_several_values_a_channel_is_batch_norm(shape: tuple[int, ...]) -> None:
    ours, theirs = norm(3, len(shape) - 2).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(shape).double()
    goldens.close(ours(x), theirs(x.reshape(*shape, *[1] * (4 - len(shape)))).reshape(shape))
    for name, tensor in ours.state_dict().items():
        goldens.close(tensor, theirs.state_dict()[name])


SIZES = [((7, 7), (4, 4)), ((5, 9), (3, 2)), ((32, 32), (14, 14)), ((3, 4), (4, 3)), ((3, 3), (8, 8)), ((6, 8), (3, 4))]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_maps_are_pooled_and_enlarged_as_torch_does_to_1e_12(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *old).requires_grad_()
    for ours, theirs in (
        (pool_to(x, new), F.adaptive_avg_pool2d(x, new)),
        (enlarge_to(x, new), F.interpolate(x, new, mode="bilinear")),
        (pool_to(x[..., 0], new[:1]), F.adaptive_avg_pool1d(x[..., 0], new[0])),
        (enlarge_to(x[..., 0], new[:1]), F.interpolate(x[..., 0], new[0], mode="linear")),
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        weights = torch.randn(ours.shape)
        both = [torch.autograd.grad(y, x, weights, retain_graph=True)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*both, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (4, 4)), ((9, 6), (3, 2)), ((7, 7), (1, 1)), ((4, 4), (4, 4))])
def test_maps_are_pooled_to_torchs_bits_where_sizes_divide(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *old, dtype=torch.float32)
    assert torch.equal(pool_to(x, new), F.adaptive_avg_pool2d(x, new))
    assert pool_to(x[:, :, 0, 0], ()).shape == (2, 3)


@pytest.mark.parametrize("change", [pool_to, enlarge_to])
def test_maps_in_half_precision_are_resampled_in_float32(change: Callable[..., torch.Tensor]) -> None:
    x = torch.randn(2, 3, 7, 7, dtype=torch.float32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = change(x, (3, 5))
    assert torch.equal(found, change(x.float(), (3, 5)).bfloat16())


def test_unrolled_steps_are_those_of_sgd_with_dampening_and_from_no_momentum_yet() -> None:
    net, inputs = nn.Linear(3, 2), torch.randn(4, 3)
    net.bias.requires_grad_(False)
    twin = copy.deepcopy(net)
    settings = {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.02}
    unrolled = Unrolled(net, torch.optim.SGD(net.parameters(), **settings))
    optimizer = torch.optim.SGD(twin.parameters(), **settings)
    for _ in range(3):
        unrolled.descend(unrolled(inputs).pow(2).sum())
        optimizer.zero_grad()
        twin(inputs).pow(2).sum().backward()
        optimizer.step()
    assert unrolled.weights.keys() == {"weight"}
    close(unrolled.weights["weight"], twin.weight)


def test_the_pixel_range_is_that_of_each_channel() -> None:
    inputs = images(20)
    low, high = pixel_range(whole(inputs))
    close(low, inputs.amin((0, 2, 3))[:, None, None])
    close(high, inputs.amax((0, 2, 3))[:, None, None])


def test_evaluating_gives_each_module_its_mode_back_even_after_an_error() -> None:
    def fail() -> None:
        with evaluating(network):
            assert not any(module.training for module in network.modules())
            raise ZeroDivisionError

    network = Tiny().train()
    network.norm.eval()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in network.modules()] == [True, True, False, True]


def test_what_would_fill_the_memory_is_refused_with_the_way_out() -> None:
    require_images("some", Tiny(), whole(images()))
    require_memory("some", Tiny(), 2**32, "leave it")
    with pytest.raises(NotApplicable, match=r"some would keep 5.0 GiB .* network 'tiny' reads: leave it"):
        require_memory("some", Tiny(), 5 * 2**30, "leave it")

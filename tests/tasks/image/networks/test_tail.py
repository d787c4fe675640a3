"""A network entered after one of its stages."""

from __future__ import annotations

import copy

import pytest
import torch

from kdbench import NotApplicable
from kdbench.tasks.image.networks import create

SIZES = {
    "cifar_resnet8": 32, "cifar_wrn_16_1": 32, "cifar_vgg8": 32, "cifar_mobilenetv2": 32, "cifar_shufflenetv1": 32,
    "cifar_shufflenetv2": 32, "test_resnet": 64, "test_convnext": 64,
}  # fmt: skip


def built(name: str, size: int = 32, **options: float):  # type: ignore[no-untyped-def]
    return create(name, num_classes=10, in_chans=3, input_size=(3, size, size), **options).eval()


@pytest.mark.parametrize(("name", "size"), [*SIZES.items(), ("cifar_vgg8", 64)])
def test_a_tail_gives_the_networks_own_output_from_each_stage_on(name: str, size: int) -> None:
    network = built(name, size)
    whole = network(torch.randn(2, 3, size, size))
    for stage, feature in enumerate(whole.features, start=1):
        rest = network.tail(stage)(feature)
        torch.testing.assert_close(rest.logits, whole.logits)
        assert [f.shape for f in rest.features] == [f.shape for f in whole.features[stage:]]
        torch.testing.assert_close(rest.unpooled, whole.unpooled)


def test_a_tail_shares_its_layers_and_a_deep_copy_has_its_own() -> None:
    network = built("cifar_resnet8")
    tail = network.tail(2)
    own, copied = set(network.parameters()), set(copy.deepcopy(tail).parameters())
    assert set(tail.parameters()) < own
    assert not copied & own
    assert len(copied) == len(set(tail.parameters()))


def test_a_gradient_through_a_tail_reaches_the_network() -> None:
    network = built("cifar_vgg8")
    network.tail(3)(network(torch.randn(2, 3, 32, 32)).features[2].detach()).logits.sum().backward()
    named = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert named
    assert all("blocks.4" in name or "classifier" in name for name in named)


def test_a_network_that_cannot_be_entered_says_so() -> None:
    with pytest.raises(NotApplicable, match="'test_vit' cannot be entered after stage 2"):
        built("test_vit", 64).tail(2)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2", "cifar_vgg8", "test_resnet", "test_efficientnet"])
def test_a_width_factor_scales_the_stages_and_so_the_parameters_by_about_its_square(name: str) -> None:
    size = 32 if name.startswith("cifar") else 64
    whole, half = (sum(p.numel() for p in built(name, size, width_factor=f).parameters()) for f in (1.0, 0.5))
    assert 0.2 < half / whole < 0.45

"""The CIFAR networks: the literature's parameter counts, maps, pre-activations and initialisation; timm's interface."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import Tensor, nn

import kdbench.networks  # noqa: F401  (registers the networks)
from kdbench.networks import CifarNet
from kdbench.networks.cifar_base import CIFAR_MEAN, CIFAR_STD

# parameters in millions at 100 classes; stem and stage maps (channels, size) of 32x32 images; embedding
TABLE = {
    "cifar_resnet20": (0.278, ((16, 32), (16, 32), (32, 16), (64, 8)), 64),
    "cifar_resnet32": (0.473, ((16, 32), (16, 32), (32, 16), (64, 8)), 64),
    "cifar_resnet56": (0.862, ((16, 32), (16, 32), (32, 16), (64, 8)), 64),
    "cifar_resnet110": (1.737, ((16, 32), (16, 32), (32, 16), (64, 8)), 64),
    "cifar_resnet8x4": (1.234, ((32, 32), (64, 32), (128, 16), (256, 8)), 256),
    "cifar_resnet32x4": (7.434, ((32, 32), (64, 32), (128, 16), (256, 8)), 256),
    "cifar_wrn_16_2": (0.703, ((16, 32), (32, 32), (64, 16), (128, 8)), 128),
    "cifar_wrn_40_2": (2.255, ((16, 32), (32, 32), (64, 16), (128, 8)), 128),
    "cifar_wrn_40_1": (0.570, ((16, 32), (16, 32), (32, 16), (64, 8)), 64),
    "cifar_vgg8": (3.965, ((64, 32), (128, 16), (256, 8), (512, 4), (512, 4)), 512),
    "cifar_vgg13": (9.462, ((64, 32), (128, 16), (256, 8), (512, 4), (512, 4)), 512),
    "cifar_mobilenetv2": (0.813, ((16, 16), (12, 16), (16, 8), (48, 4), (160, 2)), 1280),
    "cifar_shufflenetv1": (0.949, ((24, 32), (240, 16), (480, 8), (960, 4)), 960),
    "cifar_shufflenetv2": (1.356, ((24, 32), (116, 16), (232, 8), (464, 4)), 1024),
    "cifar_resnet50": (23.705, ((64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)), 2048),
}
# those that the table does not count, by the convolutions and linear layers on the way (shortcuts left out)
DEPTHS = {
    "cifar_resnet8": 8,
    "cifar_resnet14": 14,
    "cifar_resnet44": 44,
    "cifar_wrn_16_1": 16 - 2,  # the name counts the shortcuts of the two stages that change width ...
    "cifar_vgg11": 8 + 1,  # ... and ImageNet's VGG has three linear layers, this one has one
    "cifar_vgg16": 13 + 1,
    "cifar_vgg19": 16 + 1,
}
ALL = (*TABLE, *DEPTHS)
SMALL = (
    "cifar_resnet8",
    "cifar_resnet8x4",
    "cifar_resnet50",
    "cifar_wrn_16_1",
    "cifar_wrn_16_2",
    "cifar_vgg8",
    "cifar_mobilenetv2",
    "cifar_shufflenetv1",
    "cifar_shufflenetv2",
)  # one of each kind and width
RELU_AT_THE_END = ("cifar_resnet8", "cifar_resnet50", "cifar_vgg8", "cifar_shufflenetv1", "cifar_shufflenetv2")


def build(name: str, num_classes: int = 100, in_chans: int = 3) -> CifarNet:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    assert isinstance(net, CifarNet)
    return net


def images(batch: int, channels: int, size: int) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def excited(net: CifarNet) -> CifarNet:
    """Norms with random weights and statistics, as after some training, in eval mode."""
    generator = torch.Generator().manual_seed(2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
            module.bias.data -= 0.6
    return net.eval()


def test_every_network_of_the_family_is_tested() -> None:
    assert sorted(ALL) == sorted(timm.list_models("cifar_*"))


@pytest.mark.parametrize("name", TABLE)
def test_the_parameter_count_is_the_literatures(name: str) -> None:
    count = sum(parameter.numel() for parameter in build(name).parameters())
    assert round(count / 1e6, 3) == TABLE[name][0]


@torch.no_grad()
@pytest.mark.parametrize("name", TABLE)
def test_the_maps_are_the_literatures(name: str) -> None:
    net = build(name).eval()
    taps = net.run_taps(images(1, 3, 32))
    maps = tuple((tap.shape[1], tap.shape[2]) for tap in (taps.stem, *taps.features))
    assert (maps, net.num_features) == TABLE[name][1:]
    assert all(tap.shape[2] == tap.shape[3] for tap in taps.features)
    assert net.forward_head(taps.final, pre_logits=True).shape == (1, net.num_features)


@pytest.mark.parametrize("name", DEPTHS)
def test_the_depth_is_that_of_the_name(name: str) -> None:
    layers = [
        key for key, module in build(name).named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    assert len([key for key in layers if "shortcut" not in key]) == DEPTHS[name]


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_grey_digits_of_eight_pixels_and_two_classes_go_through(name: str) -> None:
    assert build(name, num_classes=2, in_chans=1).eval()(images(2, 1, 8)).shape == (2, 2)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [28, 64])
def test_other_sizes_go_through(name: str, size: int) -> None:
    assert build(name, num_classes=10).eval()(images(1, 3, size)).shape == (1, 10)


@torch.no_grad()
def test_vgg_pools_once_more_at_64_pixels() -> None:
    net = build("cifar_vgg8").eval()
    assert [tap.shape[2] for tap in net.run_taps(images(1, 3, 64)).features] == [32, 16, 8, 4]
    assert [tap.shape[2] for tap in net.run_taps(images(1, 3, 60)).features] == [30, 15, 7, 7]


@torch.no_grad()
@pytest.mark.parametrize("name", RELU_AT_THE_END)
def test_a_map_is_the_relu_of_its_preactivation(name: str) -> None:
    taps = excited(build(name)).run_taps(images(2, 3, 16))
    assert len(taps.preactivations) == len(taps.features)
    for feature, before in zip(taps.features, taps.preactivations, strict=True):
        assert before.min() < 0
        assert torch.equal(torch.relu(before), feature)


@torch.no_grad()
def test_wrn_maps_are_raw_sums_and_their_preactivations_are_the_next_norms() -> None:
    net = excited(build("cifar_wrn_16_2"))
    taps = net.run_taps(images(2, 3, 16))
    assert taps.features[0].min() < 0
    assert taps.features[1].min() < 0
    for stage, feature, before in zip(list(net.stages)[1:], taps.features, taps.preactivations, strict=False):
        assert torch.equal(stage[0].norm(feature), before)
    assert torch.equal(torch.relu(taps.preactivations[2]), taps.features[2])
    assert taps.final is taps.features[2]


@torch.no_grad()
def test_mobilenet_has_no_preactivations_because_its_stages_end_linear() -> None:
    taps = excited(build("cifar_mobilenetv2")).run_taps(images(2, 3, 32))
    assert taps.preactivations == []
    assert all(feature.min() < 0 for feature in taps.features)


@pytest.mark.parametrize("name", SMALL)
def test_a_training_pass_moves_running_statistics_once(name: str) -> None:
    net = build(name)
    net(images(4, 3, 16))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.num_batches_tracked == 1 for norm in norms)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter_through_channels_last_images(name: str) -> None:
    net = build(name).to(memory_format=torch.channels_last)
    net(images(4, 3, 16).to(memory_format=torch.channels_last)).square().sum().backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["cifar_shufflenetv1", "cifar_shufflenetv2"])
def test_the_shuffle_is_the_same_in_both_memory_formats(name: str) -> None:
    net = excited(build(name)).double()
    x = images(2, 3, 16).double()
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["cifar_resnet8x4", "cifar_wrn_16_2", "cifar_vgg8", "cifar_mobilenetv2"])
def test_convolutions_start_as_kaiming_normal_over_the_fan_out(name: str) -> None:
    for conv in build(name).modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 20_000:
            fan_out = conv.out_channels * math.prod(conv.kernel_size) / conv.groups
            if conv.groups == conv.out_channels:  # the literature counts all outputs of a depthwise convolution
                fan_out = conv.out_channels * math.prod(conv.kernel_size)
            assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
            assert conv.bias is None or not conv.bias.any()


@pytest.mark.parametrize(("name", "std"), [("cifar_vgg8", 0.01), ("cifar_mobilenetv2", 0.01)])
def test_a_new_classifier_starts_as_the_first_one_did(name: str, std: float) -> None:
    net = build(name)
    for _ in range(2):
        linear = net.get_classifier()
        assert isinstance(linear, nn.Linear)
        assert float(linear.weight.detach().std()) == pytest.approx(std, rel=0.05)
        assert not linear.bias.any()
        net.reset_classifier(50)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_the_interface_is_timms(name: str) -> None:
    net = excited(build(name, num_classes=5))
    x = images(2, 3, 16)
    final, maps = net.forward_intermediates(x)
    assert torch.equal(final, net.forward_features(x))
    assert torch.equal(net(x), net.forward_head(final))
    assert torch.equal(net(x), net.get_classifier()(net.forward_head(final, pre_logits=True)))
    assert [info["num_chs"] for info in net.feature_info] == [feature.shape[1] for feature in maps]
    assert [16 // info["reduction"] for info in net.feature_info] == [feature.shape[2] for feature in maps]
    only_last = net.forward_intermediates(x, indices=1, intermediates_only=True)
    assert torch.equal(only_last[0], maps[-1])
    assert torch.equal(net.forward_intermediates(x, indices=[0], intermediates_only=True)[0], maps[0])
    net.reset_classifier(3)
    assert (net(x).shape, net.num_classes) == ((2, 3), 3)
    net.reset_classifier(0)
    assert net(x).shape == (2, net.num_features)


def test_the_config_has_cifar_100s_statistics() -> None:
    net = build("cifar_resnet8")
    assert (net.pretrained_cfg["mean"], net.pretrained_cfg["std"]) == (CIFAR_MEAN, CIFAR_STD)
    assert net.default_cfg["input_size"] == (3, 32, 32)
    assert timm.get_pretrained_cfg("cifar_resnet8").num_classes == 100


def test_what_a_cifar_network_cannot_do_is_refused() -> None:
    net = build("cifar_resnet8")
    with pytest.raises(ValueError, match="NCHW"):
        net.forward_intermediates(images(1, 3, 8), output_fmt="NLC")
    with pytest.raises(ValueError, match="'avg'"):
        net.reset_classifier(3, global_pool="max")
    with pytest.raises(TypeError, match="wdith"):
        timm.create_model("cifar_vgg8", wdith=2)

"""The adapter over more of timm's families, pretrained weights, refusals; and the CIFAR networks as timm models."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import ClassifierHead
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.tasks.image.networks import CifarNet, TimmNetwork, create, list_networks
from kdbench.tasks.image.networks.cifar_base import CIFAR_MEAN, CIFAR_STD

# a small network of each of these families, beside timm's test networks, which test_networks.py has
FAMILIES = (
    "cait_xxs24_224",
    "dla46x_c",  # its classifier is a 1x1 convolution
    "efficientvit_b0",
    "ghostnet_050",
    "lcnet_035",
    "mobilevit_xxs",
    "pit_ti_224",
    "pvt_v2_b0",
    "repvit_m0_9",
    "swin_tiny_patch4_window7_224",
    "xcit_nano_12_p16_224",
)
# one CIFAR network of each kind and width
SMALL = (
    "cifar_resnet8",
    "cifar_resnet8x4",
    "cifar_resnet50",
    "cifar_wrn_16_2",
    "cifar_vgg8",
    "cifar_mobilenetv2",
    "cifar_shufflenetv1",
    "cifar_shufflenetv2",
)


def network(name: str, size: int = 32, channels: int = 3, classes: int = 5, **options: Any) -> TimmNetwork:
    torch.manual_seed(0)
    options = {"num_classes": classes, "in_chans": channels, "input_size": (channels, size, size), **options}
    return create(name, **options)


def images(batch: int, channels: int, size: int) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_timm_networks_logits_are_its_classifier_of_the_embedding(name: str) -> None:
    size = 224 if name in ("cait_xxs24_224", "pit_ti_224", "swin_tiny_patch4_window7_224") else 64
    net = network(name, size).eval()
    x = images(1, 3, size)
    output = net(x)
    torch.testing.assert_close(output.logits, net.model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.classifier(output.embedding), output.logits, rtol=0, atol=0)
    assert (output.logits.shape, output.embedding.ndim) == ((1, 5), 2)
    if hasattr(net.model, "forward_intermediates"):  # older versions of timm lack it here and there
        assert len(output.features) in (3, 4)
    assert all(feature.ndim == 4 for feature in output.features)


@torch.no_grad()
def test_a_vit_is_read_after_each_quarter_of_its_blocks() -> None:
    net = network("vit_tiny_patch16_224").eval()
    seen: dict[int, Tensor] = {}
    for index, block in enumerate(net.model.blocks):
        block.register_forward_hook(lambda _m, _x, out, index=index: seen.__setitem__(index, out))
    output = net(images(1, 3, 32))
    assert output.stem is None
    for feature, index in zip(output.features, (2, 5, 8, 11), strict=True):
        assert torch.equal(feature.flatten(2).transpose(1, 2), seen[index][:, 1:])  # without the class token


@torch.no_grad()
def test_a_hierarchical_network_is_read_at_its_last_four_maps_and_the_one_before() -> None:
    net = network("test_resnet").eval()
    x = images(1, 3, 32)
    output = net(x)
    maps = net.model.forward_intermediates(x, intermediates_only=True)
    assert len(maps) == 5
    assert torch.equal(output.stem, maps[0])
    assert all(torch.equal(a, b) for a, b in zip(output.features, maps[1:], strict=True))


class Plain(nn.Module):
    """A model of timm's interface but without `forward_intermediates`."""

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.body = nn.Linear(12, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 3) for _ in range(heads))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x if pre_logits else sum(head(x) for head in self.heads)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.heads[0]


def test_a_network_without_intermediates_has_no_features() -> None:
    net = TimmNetwork(Plain(), "plain", (3, 2, 2))
    assert net.shapes.features == ()
    assert net(images(2, 3, 2)).features == ()
    assert net.stage_parameters() == [frozenset(dict(net.named_parameters()))]


class Contained(Plain):
    """Its `get_classifier` gives pooling, dropout and layer together, as those of timm's Sequencers do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = ClassifierHead(6, 3, pool_type="avg", input_fmt="NHWC")

    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(x)[:, None, None]  # [B, 1, 1, 6]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        return self.head


def test_a_classifier_that_comes_with_its_pooling_is_taken_without() -> None:
    net = TimmNetwork(Contained(), "contained", (3, 2, 2))
    said = net(images(2, 3, 2))
    torch.testing.assert_close(said.logits, net.classifier(said.embedding))
    torch.testing.assert_close(said.logits, net.model(images(2, 3, 2)))
    assert isinstance(net.classifier, nn.Linear)


def test_the_stem_goes_with_the_first_stage_and_the_head_comes_last() -> None:
    net = network("cifar_resnet8", 8)
    first, second, third, head = net.stage_parameters()
    assert all(name.startswith(("model.stem.", "model.stages.0.")) for name in first)
    assert all(name.startswith("model.stages.1.") for name in second)
    assert all(name.startswith("model.stages.2.") for name in third)
    assert head == {"model.classifier.weight", "model.classifier.bias"}


def test_the_norm_after_a_wrn_stage_belongs_to_what_follows() -> None:
    net = network("cifar_wrn_16_1", 8)
    first, second, _, head = net.stage_parameters()
    assert "model.stages.1.0.norm.weight" in second - first
    assert {"model.norm.weight", "model.norm.bias"} <= head


@torch.no_grad()
def test_a_float64_network_gives_float64() -> None:
    net = network("cifar_resnet8", 8, data_normalization=((0.5,), (0.5,)), own_normalization=((0.4,), (0.3,)))
    output = net.double().eval()(images(2, 3, 8).double())
    assert (output.logits.dtype, output.embedding.dtype) == (torch.float64, torch.float64)
    assert output.features[0].dtype == torch.float64


def test_a_copy_of_a_network_is_independent() -> None:
    net = network("cifar_resnet8", 8)
    twin = copy.deepcopy(net)
    nn.init.zeros_(twin.classifier.weight)  # type: ignore[arg-type]
    assert net.classifier.weight.any()  # type: ignore[union-attr, operator]


def test_the_core_is_the_bare_timm_model_and_holds_no_conversion() -> None:
    net = network("cifar_resnet8", 8, data_normalization=((0.5,), (0.5,)), own_normalization=((0.4,), (0.3,)))
    assert net.core.state_dict().keys() == timm.create_model("cifar_resnet8").state_dict().keys()
    assert len(net.state_dict()) == len(net.core.state_dict())


# inputs of another normalisation or size

OURS = ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
THEIRS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalised(raw: Tensor, normalization: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(values, dtype=raw.dtype).reshape(1, -1, 1, 1) for values in normalization)
    return (raw - mean) / std


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A folder with weights of `test_vit`, at its own size of 160, and of `test_resnet`, for 7 classes each."""
    for name in ("test_vit", "test_resnet"):
        torch.manual_seed(3)
        model = timm.create_model(name, num_classes=7)
        safetensors.torch.save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    return str(tmp_path)


def pretrained(folder: str, name: str, **options: Any) -> TimmNetwork:
    overlay = {"file": f"{folder}/{name}.safetensors", "mean": THEIRS[0], "std": THEIRS[1], "num_classes": 7}
    options = {"classes": 7, "data_normalization": OURS, **options}
    return network(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)


@torch.no_grad()
def test_a_pretrained_vit_keeps_its_size_and_normalisation_and_inputs_are_converted(weights: str) -> None:
    net = pretrained(weights, "test_vit").eval()
    stored = safetensors.torch.load_file(f"{weights}/test_vit.safetensors")
    assert all(torch.equal(tensor, stored[key]) for key, tensor in net.core.state_dict().items())
    raw = images(2, 3, 32).sigmoid()
    large = nn.functional.interpolate(normalised(raw, OURS), size=(160, 160), mode="bilinear", antialias=True)
    its = normalised(
        large * torch.tensor(OURS[1]).reshape(1, 3, 1, 1) + torch.tensor(OURS[0]).reshape(1, 3, 1, 1), THEIRS
    )
    torch.testing.assert_close(net(normalised(raw, OURS)).logits, net.model(its), rtol=1e-4, atol=1e-5)
    assert net.model.patch_embed.img_size == (160, 160)


@torch.no_grad()
def test_a_pretrained_cnn_takes_the_data_at_its_size_and_keeps_its_normalisation(weights: str) -> None:
    net = pretrained(weights, "test_resnet").eval()
    raw = images(2, 3, 64).sigmoid()
    torch.testing.assert_close(
        net(normalised(raw, OURS)).logits, net.model(normalised(raw, THEIRS)), rtol=1e-4, atol=1e-5
    )


def test_pretrained_weights_get_a_classifier_for_the_datas_classes(weights: str) -> None:
    assert pretrained(weights, "test_resnet", classes=3).shapes.num_classes == 3


# what is refused


def sentence(name: str, **options: Any) -> str:
    with pytest.raises(KDBenchError) as caught:
        network(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(name) in message
    return message


def test_an_unknown_tag_is_answered_with_the_nearest() -> None:
    assert "did you mean 'resnet18.a1_in1k'?" in sentence("resnet18.a1_in2k")


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_two_heads_are_refused(name: str) -> None:
    message = sentence(name, size=224)
    assert "two heads" in message
    assert "single head" in message


def test_logits_of_more_than_the_classifier_are_refused() -> None:
    with pytest.raises(KDBenchError, match="'plain' does not compute its logits by one classifier"):
        TimmNetwork(Plain(heads=2), "plain", (3, 2, 2))


def test_an_image_that_a_vit_would_see_the_corner_of_is_refused() -> None:
    message = sentence("vit_tiny_patch16_224", size=28, channels=1)
    assert "cannot take inputs of 1x28x28" in message
    assert "patches of 16 pixels do not cover it" in message


def test_other_channels_than_the_inputs_are_refused() -> None:
    assert "cannot take inputs of 1x8x8" in sentence("cifar_resnet8", size=8, in_chans=3, channels=1)


def test_no_classes_are_refused() -> None:
    assert "64 classes, but the data has 0" in sentence("cifar_resnet8", classes=0)


def test_weights_that_cannot_be_reached_are_named() -> None:
    nowhere = {"url": "http://127.0.0.1:9/weights.pth", "hf_hub_id": None}
    message = sentence("test_resnet", pretrained=True, pretrained_cfg_overlay=nowhere)
    assert "without internet, put a checkpoint file on disk" in message


def test_pretrained_weights_of_other_shapes_are_named(weights: str) -> None:
    overlay = {"file": f"{weights}/test_resnet.safetensors", "num_classes": 5}  # it has 7
    message = sentence("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay)
    assert "another number of classes" in message


def test_padding_makes_up_for_patches_that_do_not_cover() -> None:
    net = network("vit_tiny_patch16_224", 28, dynamic_img_pad=True, dynamic_img_size=True)
    assert net.shapes.features[0][1:] == (2, 2)


def test_all_networks_are_listed() -> None:
    names = list_networks()
    assert {"cifar_resnet8", "resnet18", "vit_tiny_patch16_224"} <= set(names)
    assert len(names) == len(set(names))


# the CIFAR networks as timm models


def build(name: str, num_classes: int = 10, in_chans: int = 3) -> CifarNet:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    assert isinstance(net, CifarNet)
    return net


# Convolutions and the linear layer, shortcuts left out: the depth that the name says, but that WRN's counts the two
# shortcuts that widen and VGG's three linear layers where this one has one.
@pytest.mark.parametrize(
    ("name", "depth"),
    [("resnet8", 8), ("resnet14", 14), ("resnet44", 44), ("wrn_16_1", 14), ("vgg11", 9), ("vgg16", 14), ("vgg19", 17)],
)
def test_a_network_that_no_table_counts_is_as_deep_as_its_name_says(name: str, depth: int) -> None:
    layers = [
        key for key, module in build(f"cifar_{name}").named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    assert len([key for key in layers if "shortcut" not in key]) == depth


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_a_cifar_network_has_timms_interface(name: str) -> None:
    net = build(name).eval()
    x = images(2, 3, 16)
    final, maps = net.forward_intermediates(x)
    assert torch.equal(final, net.forward_features(x))
    assert torch.equal(net(x), net.forward_head(final))
    assert [info["num_chs"] for info in net.feature_info] == [feature.shape[1] for feature in maps]
    assert [16 // info["reduction"] for info in net.feature_info] == [feature.shape[2] for feature in maps]
    assert all(net.get_submodule(info["module"]) for info in net.feature_info)
    assert torch.equal(net.forward_intermediates(x, indices=1, intermediates_only=True)[0], maps[-1])
    assert torch.equal(net.forward_intermediates(x, indices=[0], intermediates_only=True)[0], maps[0])
    net.reset_classifier(3)
    assert (net(x).shape, net.num_classes) == ((2, 3), 3)
    net.reset_classifier(0)
    assert net(x).shape == (2, net.num_features)


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [28, 64])
def test_a_cifar_network_takes_28_and_64_pixels(name: str, size: int) -> None:
    assert build(name).eval()(images(1, 3, size)).shape == (1, 10)


@torch.no_grad()
def test_vgg_pools_once_more_at_64_pixels() -> None:
    net = build("cifar_vgg8").eval()
    assert [feature.shape[2] for feature in net.run_taps(images(1, 3, 64)).features] == [32, 16, 8, 4]
    assert [feature.shape[2] for feature in net.run_taps(images(1, 3, 60)).features] == [30, 15, 7, 7]


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter_through_channels_last_images(name: str) -> None:
    net = build(name).to(memory_format=torch.channels_last)
    net(images(4, 3, 8).to(memory_format=torch.channels_last)).square().sum().backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["cifar_shufflenetv1", "cifar_shufflenetv2"])
def test_the_shuffle_is_the_same_in_both_memory_formats(name: str) -> None:
    net = build(name).double().eval()
    x = images(2, 3, 16).double()
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["cifar_resnet8x4", "cifar_wrn_16_2", "cifar_vgg8", "cifar_mobilenetv2"])
def test_convolutions_start_as_kaiming_normal_over_the_fan_out(name: str) -> None:
    large = [
        module for module in build(name).modules() if isinstance(module, nn.Conv2d) and module.weight.numel() > 2e4
    ]
    assert large
    for conv in large:
        assert conv.groups == 1
        expected = math.sqrt(2 / (conv.out_channels * math.prod(conv.kernel_size)))
        assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.05)
        assert conv.bias is None or not conv.bias.any()


@pytest.mark.parametrize("name", ["cifar_vgg8", "cifar_mobilenetv2"])
def test_a_new_classifier_starts_as_the_first_one_did(name: str) -> None:
    net = build(name)
    for _ in range(2):
        linear = net.get_classifier()
        assert isinstance(linear, nn.Linear)
        assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert not linear.bias.any()
        net.reset_classifier(50)


def test_a_cifar_networks_config_has_cifar_100s_classes_and_statistics() -> None:
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

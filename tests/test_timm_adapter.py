"""Any timm model as a network: taps, logits and embedding, stages, conversion of inputs, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.networks import TimmNetwork, create, list_networks

# one small network of many kinds; timm's own test networks are drawn from its list
FAMILIES = (
    *timm.list_models("test_*"),
    "cait_xxs24_224",
    "convmixer_768_32",
    "dla46x_c",  # its classifier is a 1x1 convolution
    "efficientvit_b0",
    "ghostnet_050",
    "lcnet_035",
    "mobilevit_xxs",
    "pit_ti_224",
    "pvt_v2_b0",
    "repvit_m0_9",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
)
CIFAR = timm.list_models("cifar_*")


def network(name: str, size: int = 32, channels: int = 3, classes: int = 5, **options: Any) -> TimmNetwork:
    torch.manual_seed(0)
    options = {"num_classes": classes, "in_chans": channels, "input_size": (channels, size, size), **options}
    return create(name, **options)


def images(batch: int, channels: int, size: int) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


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


def test_the_stem_goes_with_the_first_stage_and_the_head_comes_last() -> None:
    net = network("cifar_resnet8", 8)
    first, second, third, head = net.stage_parameters()
    assert {name.split(".stages")[0] for name in first} == {"model", "model.stem.0.weight", "model.stem.1.weight"} | {
        "model.stem.1.bias"
    }
    for index, stage in enumerate((second, third), start=1):
        assert all(name.startswith(f"model.stages.{index}.") for name in stage)
    assert head == {"model.classifier.weight", "model.classifier.bias"}


def test_the_norm_after_a_wrn_stage_belongs_to_the_next_one() -> None:
    net = network("cifar_wrn_16_1", 8)
    first, second, third, _ = net.stage_parameters()
    assert "model.stages.1.0.norm.weight" in second - first
    assert {"model.norm.weight", "model.norm.bias"} <= third


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
    """A file of weights for `test_vit` at its own size, 160, and for `test_resnet`'s neighbour in the folder."""
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


def test_an_input_that_patches_do_not_divide_is_refused() -> None:
    message = sentence("vit_tiny_patch16_224", size=28, channels=1)
    assert "cannot take inputs of 1x28x28" in message
    assert "patch size (16)" in message


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


def test_all_networks_are_listed() -> None:
    names = list_networks()
    assert {"cifar_resnet8", "resnet18", "vit_tiny_patch16_224"} <= set(names)
    assert len(names) == len(set(names))

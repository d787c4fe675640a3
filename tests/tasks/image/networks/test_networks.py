"""Networks: the literature's CIFAR nets as published, and the one adapter through which any timm network is seen."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.method import Output
from kdbench.tasks.image.networks import CifarNet, TimmNetwork, create

# Parameters (100 classes), stem, stage maps and embedding, measured on the networks of CRD's published code for
# 32-pixel images; the tables of the literature rest on them.
PUBLISHED: dict[str, tuple[int, tuple[int, ...], list[tuple[int, ...]], int]] = {
    "resnet20": (278_324, (16, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)], 64),
    "resnet32": (472_756, (16, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)], 64),
    "resnet56": (861_620, (16, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)], 64),
    "resnet110": (1_736_564, (16, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)], 64),
    "resnet8x4": (1_233_540, (32, 32, 32), [(64, 32, 32), (128, 16, 16), (256, 8, 8)], 256),
    "resnet32x4": (7_433_860, (32, 32, 32), [(64, 32, 32), (128, 16, 16), (256, 8, 8)], 256),
    "wrn_16_2": (703_284, (16, 32, 32), [(32, 32, 32), (64, 16, 16), (128, 8, 8)], 128),
    "wrn_40_2": (2_255_156, (16, 32, 32), [(32, 32, 32), (64, 16, 16), (128, 8, 8)], 128),
    "wrn_40_1": (569_780, (16, 32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8)], 64),
    "vgg8": (3_965_028, (64, 32, 32), [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)], 512),
    "vgg13": (9_462_180, (64, 32, 32), [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)], 512),
    "mobilenetv2": (812_836, (16, 16, 16), [(12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2)], 1280),
    "shufflenetv1": (949_258, (24, 32, 32), [(240, 16, 16), (480, 8, 8), (960, 4, 4)], 960),
    "shufflenetv2": (1_355_528, (24, 32, 32), [(116, 16, 16), (232, 8, 8), (464, 4, 4)], 1024),
    "resnet50": (23_705_252, (64, 32, 32), [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)], 2048),
}
# The same counts as CRD's code gives them, in millions to three places.
MILLIONS = {
    "resnet20": 0.278, "resnet32": 0.473, "resnet56": 0.862, "resnet110": 1.737, "resnet8x4": 1.234,
    "resnet32x4": 7.434, "wrn_16_2": 0.703, "wrn_40_2": 2.255, "wrn_40_1": 0.570, "vgg8": 3.965, "vgg13": 9.462,
    "mobilenetv2": 0.813, "shufflenetv1": 0.949, "shufflenetv2": 1.356, "resnet50": 23.705,
}  # fmt: skip
OTHERS = ("resnet8", "resnet14", "resnet44", "vgg11", "vgg16", "vgg19", "wrn_16_1")
CIFAR_NETS = sorted([*(f"cifar_{name}" for name in PUBLISHED), *(f"cifar_{name}" for name in OTHERS)])
# Stages that end in a ReLU of the pre-activation map itself (a WRN's maps are raw sums).
RELU_NETS = ("cifar_resnet8", "cifar_resnet8x4", "cifar_vgg8", "cifar_shufflenetv1", "cifar_shufflenetv2")
TIMM_NETS = [
    *timm.list_models("test_*"), "resnet18", "vit_tiny_patch16_224", "convnext_atto", "mixer_s32_224",
    "mobilenetv1_100", "regnetx_002",
]  # fmt: skip
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def build(name: str, size: int = 32, **options: Any) -> TimmNetwork:
    torch.manual_seed(0)
    channels = options.pop("in_chans", 3)
    classes = options.pop("num_classes", 10)
    return create(name, num_classes=classes, in_chans=channels, input_size=(channels, size, size), **options)


def images(size: int = 32, batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(network: TimmNetwork, x: Tensor) -> Output:
    output = network.eval()(x)
    assert isinstance(output, Output)
    return output


def shaken(network: TimmNetwork) -> TimmNetwork:
    """Norms that are not the identity, so that a map before and one after a norm differ."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                assert tensor is not None
                tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    return network


# -------------------------------------------------------------------------------- the CIFAR networks of the literature


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cifar_network_has_the_published_parameters_and_maps(name: str) -> None:
    parameters, stem, features, embedding = PUBLISHED[name]
    network = build(f"cifar_{name}", num_classes=100)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert round(parameters / 1e6, 3) == MILLIONS[name]
    assert network.shapes.stem == stem
    assert list(network.shapes.features) == features
    assert network.shapes.embedding == embedding
    assert network.shapes.num_classes == 100


def test_every_cifar_network_is_registered_with_timm() -> None:
    build("cifar_resnet8")  # the import registers them
    assert set(timm.list_models("cifar_*")) == set(CIFAR_NETS)
    assert isinstance(timm.create_model("cifar_vgg8", num_classes=7), CifarNet)


@pytest.mark.parametrize("name", CIFAR_NETS)
def test_a_cifar_network_takes_one_grey_channel_eight_pixels_and_any_number_of_classes(name: str) -> None:
    network = build(name, size=8, in_chans=1, num_classes=7)
    output = run(network, images(8, channels=1))
    assert output.logits.shape == (2, 7)
    assert output.embedding.shape == (2, network.shapes.embedding)
    assert [tuple(feature.shape[1:]) for feature in output.features] == list(network.shapes.features)
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("name", CIFAR_NETS)
def test_a_cifar_networks_taps_are_those_of_its_own_forward_pass(name: str) -> None:
    network = shaken(build(name, size=16))
    x = images(16)
    output = run(network, x)
    with torch.no_grad():
        assert torch.equal(output.logits, network.core(x))
        maps = network.core.forward_intermediates(x, intermediates_only=True)  # type: ignore[operator]
    assert torch.equal(output.logits, network.classifier(output.embedding))
    assert len(output.features) in (3, 4)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(output.features, maps, strict=True))


@pytest.mark.parametrize("name", RELU_NETS)
def test_a_feature_is_the_relu_of_its_preactivation(name: str) -> None:
    output = run(shaken(build(name, size=16)), images(16))
    assert len(output.preactivations) == len(output.features)
    for before, after in zip(output.preactivations, output.features, strict=True):
        assert before.min() < 0
        assert torch.equal(before.relu(), after)


# Every stage that is read ends in a linear bottleneck; those of MobileNetV1, V3 and V4 end in an activation somewhere.
@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("cifar_mobilenetv2", True),
        ("mobilenetv2_050", True),
        ("efficientnet_b0", True),
        ("tf_efficientnetv2_b0", True),
        ("mnasnet_small", True),
        ("test_efficientnet_gn", True),
        ("mobilenetv1_100", False),
        ("mobilenetv3_small_050", False),
    ],
)
def test_where_all_stages_end_in_linear_bottlenecks_their_maps_are_the_preactivations(name: str, linear: bool) -> None:
    output = run(shaken(build(name, size=64)), images(64))
    before = output.features if linear else ()
    assert len(output.preactivations) == len(before)
    assert all(ours is theirs for ours, theirs in zip(output.preactivations, before, strict=True))
    assert all(feature.min() < 0 for feature in before)


def test_a_wide_resnets_preactivations_are_the_norms_that_follow_its_stages() -> None:
    network = shaken(build("cifar_wrn_16_1"))
    core: Any = network.core
    output = run(network, images())
    norms = [core.stages[1][0].norm, core.stages[2][0].norm, core.norm]
    for raw, before, norm in zip(output.features, output.preactivations, norms, strict=True):
        assert torch.equal(before, norm(raw))
        assert raw.min() < 0
    assert torch.equal(output.preactivations[2].relu(), output.unpooled)


def test_a_wide_resnets_running_statistics_move_once_a_train_step() -> None:
    network = build("cifar_wrn_16_1").train()
    network(images())
    counts = {m.num_batches_tracked.item() for m in network.modules() if isinstance(m, nn.BatchNorm2d)}  # type: ignore[union-attr]
    assert counts == {1}


# ------------------------------------------------------------------------------------------------ any network of timm


@pytest.fixture(scope="module")
def timm_network(request: pytest.FixtureRequest) -> TimmNetwork:
    return shaken(build(request.param, size=64))


@pytest.mark.parametrize("timm_network", TIMM_NETS, indirect=True, scope="module")
class TestAnyTimmNetwork:
    def test_gives_the_plain_models_logits_by_one_classifier_on_its_embedding(self, timm_network: TimmNetwork) -> None:
        x = images(64)
        output = run(timm_network, x)
        with torch.no_grad():
            plain = timm_network.core(x)
        torch.testing.assert_close(output.logits, plain, rtol=1e-5, atol=1e-6)
        assert torch.equal(output.logits, timm_network.classifier(output.embedding))

    def test_shows_one_to_four_maps_of_the_shapes_it_announces(self, timm_network: TimmNetwork) -> None:
        output = run(timm_network, images(64))
        # timm gave some families their taps only lately; without them there are none
        assert len(output.features) in (1, 2, 3, 4) if hasattr(timm_network.core, "forward_intermediates") else (0,)
        assert [tuple(feature.shape[1:]) for feature in output.features] == list(timm_network.shapes.features)
        assert (None if output.stem is None else tuple(output.stem.shape[1:])) == timm_network.shapes.stem
        assert output.embedding.shape == (2, timm_network.shapes.embedding)

    def test_has_every_parameter_in_one_stage_or_the_head(self, timm_network: TimmNetwork) -> None:
        check_partition(timm_network)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_1", "cifar_vgg8", "cifar_mobilenetv2"])
def test_a_cifar_network_has_every_parameter_in_one_stage_or_the_head(name: str) -> None:
    network = build(name, size=16)
    check_partition(network)
    head = network.stage_parameters()[-1]
    assert {"model.classifier.weight", "model.classifier.bias"} <= head
    assert not any("stem" in name for name in head)


def check_partition(network: TimmNetwork) -> None:
    groups = network.stage_parameters()
    named = [name for name, _ in network.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(named)
    assert len(groups) == len(network.shapes.features) + 1
    assert all(groups[:-1])


def test_asking_for_the_stages_leaves_no_trace() -> None:
    network = build("cifar_resnet8").train()
    network.core.stages[0].eval()  # type: ignore[operator, union-attr, index]
    frozen = next(network.parameters()).requires_grad_(False)
    modes = {name: module.training for name, module in network.named_modules()}
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stream = torch.get_rng_state()
    network.stage_parameters()
    assert torch.equal(torch.get_rng_state(), stream)
    assert modes == {name: module.training for name, module in network.named_modules()}
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [p for p in network.parameters() if not p.requires_grad] == [frozen]
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_1", "cifar_vgg8", "test_vit", "test_efficientnet"])
def test_building_draws_no_random_numbers_beyond_the_weights(name: str) -> None:
    torch.manual_seed(5)
    size = {"img_size": (64, 64)} if name == "test_vit" else {}
    plain = timm.create_model(name, num_classes=10, in_chans=3, **size)
    expected = torch.rand(4)
    torch.manual_seed(5)
    network = create(name, num_classes=10, in_chans=3, input_size=(3, 64, 64))
    assert torch.equal(torch.rand(4), expected)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, network.core.state_dict()[key]), key


@pytest.mark.parametrize("name", ["cifar_resnet8", "test_efficientnet"])
def test_building_moves_no_running_statistic_and_leaves_train_mode(name: str) -> None:
    network = build(name, size=64)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.running_mean is not None and not norm.running_mean.any() for norm in norms)
    assert all(module.training for module in network.modules())


def test_half_precision_outputs_are_given_wide() -> None:
    network = build("cifar_resnet8")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(network, images())
    assert output.logits.dtype == output.embedding.dtype == torch.float32


# --------------------------------------------------------------------------------------------- normalisation and size


def test_another_normalisation_of_the_weights_is_converted_exactly() -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))

    def normalised(normalization: Any) -> Tensor:
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in normalization)
        return (pixels - mean) / std

    network = build("cifar_resnet8", data_normalization=IMAGENET, own_normalization=HALVES)
    plain = build("cifar_resnet8")
    torch.testing.assert_close(
        run(network, normalised(IMAGENET)).logits, run(plain, normalised(HALVES)).logits, rtol=1e-4, atol=1e-6
    )
    assert network.core.state_dict().keys() == plain.core.state_dict().keys()


def test_the_same_normalisation_changes_no_bit() -> None:
    network = build("cifar_resnet8", data_normalization=IMAGENET, own_normalization=IMAGENET)
    assert torch.equal(run(network, images()).logits, run(build("cifar_resnet8"), images()).logits)


def test_three_colours_statistics_serve_a_grey_channel() -> None:
    grey = ((0.5,), (0.25,))
    network = build("cifar_resnet8", in_chans=1, size=8, data_normalization=grey, own_normalization=HALVES)
    x = images(8, channels=1)
    plain = build("cifar_resnet8", in_chans=1, size=8)
    torch.testing.assert_close(run(network, x).logits, run(plain, x * 0.5).logits, rtol=1e-5, atol=1e-6)


def test_a_network_of_another_fixed_size_is_given_resized_images() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=10, img_size=64)
    network = TimmNetwork(model, "test_vit", (3, 32, 32), own_size=(64, 64))
    resized = torch.nn.functional.interpolate(images(), size=(64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = model.eval()(resized)
    torch.testing.assert_close(run(network, images()).logits, expected, rtol=1e-5, atol=1e-6)


def test_a_vit_from_scratch_is_built_for_the_datas_size() -> None:
    network = build("vit_tiny_patch16_224", size=64)
    assert network.core.patch_embed.img_size == (64, 64)  # type: ignore[union-attr]
    assert network.shapes.features == ((192, 4, 4),) * 4


# --------------------------------------------------------------------------------------------------------- refusals


def sentence(name: str, size: int = 32, **options: Any) -> str:
    with pytest.raises(KDBenchError) as caught:
        build(name, size, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_network_with_two_heads_is_refused() -> None:
    text = sentence("deit_tiny_distilled_patch16_224", 64)
    assert text.startswith("network 'deit_tiny_distilled_patch16_224' does not compute its logits by one classifier")
    assert "choose a variant with a single head" in text


def test_an_unknown_network_is_answered_with_the_nearest() -> None:
    assert sentence("cifar_resnet8x5").startswith("unknown network 'cifar_resnet8x5': did you mean 'cifar_resnet8x4'?")


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 8), ("cifar_vgg8", 4), ("test_vit", 20)])
def test_images_that_a_network_cannot_take_are_named(name: str, size: int) -> None:
    text = sentence(name, size)
    assert text.startswith(f"network {name!r} cannot take inputs of 3x{size}x{size} (")
    assert "`image_size`" in text


def test_pretrained_weights_that_do_not_exist_are_refused() -> None:
    assert sentence("cifar_resnet8", pretrained=True).startswith("timm has no pretrained weights of 'cifar_resnet8'")


def test_an_option_that_a_network_does_not_take_is_refused() -> None:
    assert sentence("cifar_resnet8", moons=2).startswith("network 'cifar_resnet8' does not take these options:")

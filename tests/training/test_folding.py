"""A folded teacher gives what the teacher gives, with fewer layers, and never changes the teacher."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.method import Network, Output
from kdbench.tasks.image.networks import create
from kdbench.testing.trial import FP32, Bench
from kdbench.training.folding import folded, light

NUMERICS = Numerics(torch.device("cpu"), "bf16")
EXAMPLE = torch.zeros(1, 3, 32, 32)


def teacher(name: str) -> Network:
    """With statistics of its own, as training leaves them."""
    torch.manual_seed(0)
    network = create(name, num_classes=7, in_chans=3, input_size=(3, 32, 32)).train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(3):
            network(torch.randn(8, 3, 32, 32))
    return network.requires_grad_(False).eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "name",
    ["cifar_resnet14", "cifar_wrn_16_1", "cifar_vgg8", "cifar_mobilenetv2", "cifar_shufflenetv2", "resnet18"],
)
def test_a_folded_teacher_gives_what_the_teacher_gives(name: str) -> None:
    network = teacher(name)
    images = torch.randn(4, 3, 32, 32)
    before, weights = network(images), copy.deepcopy(network.state_dict())
    ours = folded(network, EXAMPLE, NUMERICS).network(images)
    for field in dataclasses.fields(Output):
        mine, its = getattr(ours, field.name), getattr(before, field.name)
        pairs = zip(mine, its, strict=True) if isinstance(its, tuple) else [(mine, its)]
        for a, b in pairs:
            if isinstance(b, Tensor):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
    assert all(torch.equal(weights[key], tensor) for key, tensor in network.state_dict().items())


# a wide ResNet normalises each of its 6 blocks' inputs and the last one's output: sums, but for the first, which the
# block's shortcut reads too
@pytest.mark.parametrize(
    ("name", "left", "read_by_others"), [("cifar_resnet14", 0, 0), ("cifar_vgg8", 0, 0), ("cifar_wrn_16_1", 7, 1)]
)
def test_every_norm_behind_a_convolution_is_folded(name: str, left: int, read_by_others: int) -> None:
    network = teacher(name)
    found, before = folded(network, EXAMPLE, NUMERICS), norms(network)
    assert before > left
    assert norms(found.network) == left
    assert found.about == {"folded": before - left, "foldable": before - left + read_by_others}


class TwoReaders(Network):
    """A map that is read before its norm as well as behind it cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.classifier_ = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Output:
        raw = self.conv(inputs)
        embedding = self.norm(raw).mean((2, 3))
        return Output(self.classifier_(embedding), embedding, (raw,))


def test_a_norm_stays_whose_map_is_read_before_it() -> None:
    torch.manual_seed(0)
    network = TwoReaders()
    network(torch.randn(8, 3, 32, 32))
    network.eval()
    with torch.no_grad():
        network.norm.weight.fill_(3.0)
    (copy, about), images = folded(network, EXAMPLE, NUMERICS), torch.randn(2, 3, 32, 32)
    assert norms(copy) == 1
    assert about == {"folded": 0, "foldable": 1}
    torch.testing.assert_close(copy(images).features[0], network(images).features[0])


def test_folding_draws_no_random_number() -> None:
    network = teacher("cifar_resnet14")
    state = torch.get_rng_state()
    folded(network, EXAMPLE, NUMERICS)
    assert torch.equal(state, torch.get_rng_state())


def test_in_fp32_the_teacher_stays_as_it_is_to_the_bit() -> None:
    network = teacher("cifar_resnet14")
    for precision in ("fp32", "tf32"):
        found = folded(network, EXAMPLE, Numerics(torch.device("cpu"), precision))
        assert (found.network is network, found.about) == (True, {})


@pytest.mark.parametrize("name", ["cifar_resnet14", "cifar_mobilenetv2", "cifar_shufflenetv2", "test_efficientnet"])
def test_a_light_teacher_gives_under_autocast_what_the_folded_one_does_to_the_bit(name: str) -> None:
    network, images = teacher(name), torch.randn(4, 3, 32, 32)
    with torch.no_grad(), NUMERICS.autocast():
        expected, ours = (make(network, EXAMPLE, NUMERICS).network(images) for make in (folded, light))
    weights = light(network, EXAMPLE, NUMERICS).network.parameters()
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in weights}
    assert torch.equal(ours.logits, expected.logits)
    assert all(torch.equal(a, b) for a, b in zip(ours.features, expected.features, strict=True))


def test_in_fp32_a_teacher_is_called_as_it_is() -> None:
    network = teacher("cifar_resnet14")
    assert light(network, EXAMPLE, dataclasses.replace(NUMERICS, precision="fp32")).network is network


# ------------------------------------------------------------------------------------------------ TF32 and the record


def rounded(tensor: Tensor) -> Tensor:
    """float32 as tensor cores read it in TF32: 10 bits of mantissa, to the nearest."""
    bits = tensor.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def test_tf32_beside_bf16_would_leave_most_of_a_teacher_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it is off there, and what the record's numbers would show if it were not."""
    network, real = teacher("cifar_resnet56"), F.conv2d
    exact = folded(network, EXAMPLE, NUMERICS).about
    monkeypatch.setattr(F, "conv2d", lambda x, w, *others: real(rounded(x), rounded(w), *others))
    about = folded(network, EXAMPLE, NUMERICS).about
    assert exact == {"folded": 57, "foldable": 57}
    assert about["foldable"] == 57
    assert about["folded"] < 20


@pytest.mark.parametrize(("precision", "counts"), [("bf16", {"folded": 15, "foldable": 15}), ("fp32", {})])
def test_the_record_says_how_much_of_each_teacher_was_folded(
    tmp_path: Path, precision: str, counts: dict[str, int]
) -> None:
    bench = Bench(tmp_path, epochs=1, numerics=dataclasses.replace(FP32, precision=precision))
    (entry,) = bench.run([bench.cell("kd")])[0]["teachers"]
    assert {key: entry[key] for key in ("folded", "foldable") if key in entry} == counts

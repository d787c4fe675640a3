"""The table of families in docs/methods.md: one network of each gives the maps that it names, by shape and value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from support.loops import Whole, real
from support.loops import images as random_images
from torch import Tensor, nn

from kdbench import Output, registry
from kdbench.tasks.image.networks import TimmNetwork, create

PAGE = (Path(__file__).parents[4] / "docs" / "methods.md").read_text(encoding="utf-8")
SIZES = {"swin_tiny_patch4_window7_224": 224, "vit_tiny_patch16_224": 64, "mixer_s32_224": 64}


class Family(NamedTuple):
    """One line of the table."""

    family: str
    what: str
    activated: str
    pooled: str
    before: str
    network: str
    features: str
    unpooled: str


def families() -> list[Family]:
    table = re.search(r"^\| family \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert table
    rows = [line.strip("| ").split(" | ") for line in table[0].strip().splitlines()[2:]]
    return [Family(*(cell.replace("`", "") for cell in row)) for row in rows]


FAMILIES = families()


def built(name: str) -> tuple[TimmNetwork, Tensor]:
    """The network with norms that are not the identity, and images."""
    torch.manual_seed(0)
    size = SIZES.get(name, 32)
    network = create(name, num_classes=5, in_chans=3, input_size=(3, size, size)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return network, torch.randn(1, 3, size, size)


def submodule(model: Any, path: str) -> nn.Module:
    for part in path.split("."):
        model = list(model.children())[-1] if part == "-1" else getattr(model, part)
    return model


def outputs(network: TimmNetwork, expression: str, images: Tensor, count: int) -> list[Tensor]:
    """What the modules give that an expression such as `relu(stages.*.-1)` names, in their order."""
    call, path, chosen = re.fullmatch(r"(?:(\w+)\()?([\w.*-]+)(?:\[(\d+)\])?\)?", expression).groups()  # type: ignore[union-attr]
    path, numbers = (path + "*", list(map(int, chosen))) if chosen else (path, range(40) if "*" in path else [0])
    found = []
    for number in numbers:
        try:
            found.append(submodule(network.core, path.replace("*", str(number))))
        except AttributeError:
            continue
    if len(found) > count:  # equal blocks: after each quarter of them; others: the last ones
        equal = call == "tokens"
        found = [found[len(found) * (k + 1) // count - 1] for k in range(count)] if equal else found[-count:]
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: Any, out: Any) -> None:
        seen[module] = (out[0] if isinstance(out, tuple) else out).clone()

    hooks = [module.register_forward_hook(note) for module in found]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return [shaped(network, call, seen[module]) for module in found]


def shaped(network: TimmNetwork, call: str | None, x: Tensor) -> Tensor:
    if call == "relu":
        return x.relu()
    if call == "nchw":
        return x.permute(0, 3, 1, 2)
    if call == "tokens":
        prefix = 1 if hasattr(network.core, "cls_token") else 0
        side = int((x.shape[1] - prefix) ** 0.5)
        return x[:, prefix:].transpose(1, 2).reshape(1, -1, side, side)
    return x


@pytest.mark.parametrize("family", FAMILIES, ids=[family.network for family in FAMILIES])
def test_a_family_gives_the_maps_that_the_table_names(family: Family) -> None:
    network, images = built(family.network)
    with torch.no_grad():
        said = network(images)
    maps = outputs(network, family.features, images, len(said.features))
    assert [tuple(feature.shape[1:]) for feature in said.features] == list(network.shapes.features)
    assert len(maps) == len(said.features)
    assert all(torch.equal(ours, named) for ours, named in zip(said.features, maps, strict=True))
    assert (family.activated == "yes") == all(feature.min() >= 0 for feature in said.features)
    check_unpooled(family, network, images, said)
    check_before(family, said)


def check_unpooled(family: Family, network: TimmNetwork, images: Tensor, said: Output) -> None:
    assert (said.final is None) == (family.pooled == "the last") == (family.unpooled == "the last")
    assert tuple(said.unpooled.shape[1:]) == network.shapes.unpooled
    if said.final is None:
        assert said.unpooled is said.features[-1]
    else:
        (named,) = outputs(network, family.unpooled, images, 1)
        assert torch.equal(said.unpooled, named)
    own_head = family.network in ("vit_tiny_patch16_224", "test_convnext", "mobilenetv3_small_050")
    mean = said.unpooled.mean((2, 3))
    same = mean.shape == said.embedding.shape and torch.allclose(mean, said.embedding, atol=1e-5)
    assert same != own_head  # these read the class token, or have layers behind the pooling


def check_before(family: Family, said: Output) -> None:
    pairs = list(zip(said.preactivations, said.features, strict=False))
    assert len(pairs) == (0 if family.before == "none" else len(said.features))
    if family.before == "before the ReLU":
        assert all(before.min() < 0 and torch.equal(before.relu(), after) for before, after in pairs)
    if family.before == "the same maps":
        assert all(before is after for before, after in pairs)
    if family.before == "the norm that follows":
        assert torch.equal(said.preactivations[-1].relu(), said.unpooled)


@pytest.mark.parametrize("method", ["ab", "ofd"])
@pytest.mark.parametrize("student", ["cifar_mobilenetv2", "test_efficientnet"])
def test_methods_that_read_preactivations_take_linear_bottlenecks(method: str, student: str) -> None:
    """Each of the student's own maps is what ab and ofd compare."""
    ours, theirs = real(student, 32), real("cifar_mobilenetv2", 32, seed=1).requires_grad_(False).eval()
    built, data = registry.create(method, {}), random_images(32)
    built.epochs, built.phase = 240, "init" if method == "ab" else "all"
    built.bind([ours], [theirs])
    built.prepare(Whole(data), [theirs])
    said = ours(data.inputs)
    term = sum(value for name, value in built.loss(data, said, theirs(data.inputs)).items() if name != "ce")
    gradients = torch.autograd.grad(term, said.features)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)

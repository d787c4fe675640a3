"""uhkd compares the low frequencies of standardised maps, stage by stage, beside KD."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    convolved,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    network,
    normed,
    output,
)
from torch import Tensor

from kdbench import KDBenchError, NotApplicable, registry
from kdbench.tasks.image.networks import create


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def block(x: Tensor, k: int) -> list[Tensor]:
    """The full spectrum of one map `[H, W]` at frequencies of at most k // 2 in both directions, bin by bin."""
    height, width = x.shape
    bins = []
    for u in range(-(height // 2), height - height // 2):
        for v in range(-(width // 2), width - width // 2):
            if (height > k and abs(u) > k // 2) or abs(v) > k // 2:
                continue
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            angle = -2 * math.pi * (u * rows / height + v * columns / width)
            bins.append((x * torch.polar(torch.ones_like(angle), angle)).sum() / math.sqrt(height * width))
    return bins


def compact(x: Tensor, k: int, amplitude: bool) -> Tensor:
    """One sample's map `[C, H, W]` as standardised bins `[C, bins]`."""
    values = torch.stack([torch.stack(block(channel, k)) for channel in x])
    values = values.abs().log1p() if amplitude else values
    values = values - values.mean()
    return values / (values.abs().pow(2).mean() + 1e-6).sqrt()


@pytest.mark.equation
@pytest.mark.parametrize("amplitude", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (6, 6), (5, 7), (4, 9)])
def test_uhkd_compares_the_low_frequencies_of_the_whole_spectrum(size: tuple[int, int], amplitude: bool) -> None:
    ours, theirs = tensor(BATCH, 2, *size), torch.randn(BATCH, 2, *size)
    method = registry.create("uhkd", {"k": 5, "representation": "amplitude" if amplitude else "complex"})
    found = method.distance(ours, theirs)
    pairs = [[compact(side[i], 5, amplitude) for side in (ours, theirs)] for i in range(BATCH)]
    expected = mean((a - b).abs().pow(2).mean() for a, b in pairs)
    agree({"distance": found}, {"distance": expected}, [ours])


DOMAINS = ("frequency", "space")


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 5), (1, 4), (2, 1), (14, 14)])
def test_uhkd_with_all_frequencies_and_as_they_are_is_fitnet_with_its_projector(
    size: tuple[int, int], domain: str
) -> None:
    """Parseval: the orthonormal transform keeps distances; mirrored columns count twice."""
    ours, theirs = tensor(BATCH, 3, *size), torch.randn(BATCH, 3, *size)
    method = registry.create("uhkd", {"k": 15, "standardise": False, "domain": domain})
    expected = {"distance": F.mse_loss(ours, theirs)}
    agree({"distance": method.distance(ours, theirs)}, expected, [ours])


def test_uhkds_amplitudes_do_not_see_where_things_are() -> None:
    theirs = torch.randn(BATCH, 3, 8, 8)
    shifted = theirs.roll((2, 3), (2, 3))
    complex_, amplitude = (registry.create("uhkd", {"k": 9, "representation": r}) for r in ("complex", "amplitude"))
    assert amplitude.distance(shifted, theirs).item() == pytest.approx(0, abs=1e-12)
    assert complex_.distance(shifted, theirs) > 0.5


@pytest.mark.parametrize("domain", DOMAINS)
def test_uhkds_distance_of_unlike_maps_is_two(domain: str) -> None:
    method = registry.create("uhkd", {"domain": domain})
    distance = method.distance(torch.randn(9, 64, 12, 12), 7 + 5 * torch.randn(9, 64, 12, 12))
    assert distance.item() == pytest.approx(2, rel=0.05)


@pytest.mark.equation
def test_uhkd_is_cross_entropy_kl_and_the_mean_over_its_stages() -> None:
    shapes = ((2, 8, 8), (3, 4, 4), (4, 2, 2)), ((3, 20, 20), (2, 4, 4))
    method = registry.create("uhkd", {"weight": 3.0, "kd_weight": 2.0, "temperature": 2.0})
    method.build(network(*shapes[0]), network(*shapes[1]))
    assert len(method.projectors) == 2
    ours, theirs = [tensor(BATCH, *s) for s in shapes[0]], [torch.randn(BATCH, *s) for s in shapes[1]]
    z, z_t, data = logits(), logits().detach(), batch()
    projected = [project(x) for project, x in zip(method.projectors, ours, strict=False)]
    sides = [
        (F.adaptive_avg_pool2d(projected[0], 14), F.adaptive_avg_pool2d(theirs[0], 14)),
        (projected[1], theirs[1]),
    ]
    costs = []
    for pair in sides:
        samples = [[compact(side[i], 7, amplitude=False) for side in pair] for i in range(BATCH)]
        costs.append(mean((a - b).abs().pow(2).mean() for a, b in samples))
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "kd": 2 * mean(kl(z[i], z_t[i], 2.0) for i in range(BATCH)),
        "feature": 3 * mean(costs),
    }
    agree(method.loss(data, output(z, ours), output(z_t, theirs)), expected, [z, *ours[:2]])


def depthwise(weight: Tensor, x: Tensor) -> Tensor:
    """A 3x3 convolution with zeros around, each channel on its own."""
    height, width = x.shape[2:]
    rim = F.pad(x, (1, 1, 1, 1))
    taps = [
        weight[:, 0, i, j, None, None] * rim[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)
    ]
    return sum(taps, torch.zeros(()))


@pytest.mark.equation
def test_uhkds_projector_is_a_depthwise_convolution_between_two_pointwise_ones() -> None:
    method = registry.create("uhkd")
    method.build(network((3, 4, 4)), network((2, 4, 4)))
    (project,) = method.projectors
    first, first_bn, _, middle, second_bn, last = project
    for bn in (first_bn, second_bn):
        bn.weight.data.uniform_(0.5, 2)
        bn.bias.data.normal_()
    x, target = tensor(BATCH, 3, 4, 4), torch.randn(BATCH, 2, 4, 4)
    hidden = normed(first_bn, convolved(first, x))
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    hidden = normed(second_bn, depthwise(middle.weight, hidden))
    expected = convolved(last, hidden) + last.bias[:, None, None]
    found = project(x)
    close(found, expected)
    costs = [{"cost": ((y - target) ** 2).sum()} for y in (found, expected)]
    agree(*costs, [x, *project.parameters()])


def test_uhkd_takes_the_stages_it_is_given() -> None:
    side = network((2, 8, 8), (3, 4, 4), (4, 2, 2))
    method = registry.create("uhkd", {"stages": [1, 3]})
    method.build(side, side)
    assert method.indices == [0, 2]
    with pytest.raises(NotApplicable, match="'some'"):
        registry.create("uhkd", {"stages": [4]}).build(side, side)


def test_uhkd_sees_a_vits_tokens_as_a_grid() -> None:
    vit = create("test_vit", num_classes=4, in_chans=3, input_size=(3, 64, 64))
    cnn = create("cifar_resnet8", num_classes=4, in_chans=3, input_size=(3, 64, 64))
    assert [shape[1:] for shape in vit.shapes.features] == [(4, 4)] * len(vit.shapes.features)
    method = registry.create("uhkd")
    method.build(cnn, vit)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = vit(inputs)
    terms = method.loss(batch(size=2), cnn(inputs), theirs)
    assert all(term.isfinite() for term in terms.values())


def test_uhkds_flat_maps_have_finite_gradients() -> None:
    ours = torch.ones(2, 3, 8, 8).requires_grad_()
    method = registry.create("uhkd", {"representation": "amplitude"})
    gradient = torch.autograd.grad(method.distance(ours, torch.zeros(2, 3, 8, 8)), ours)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("bad", [{"representation": "phase"}, {"domain": "time"}, {"k": 6}, {"k": -1}])
def test_uhkd_says_what_it_takes(bad: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match="uhkd"):
        registry.create("uhkd", bad)

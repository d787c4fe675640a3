"""byot is the paper's three losses on classifiers behind its bottlenecks, as plain formulas have it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    activations,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    mean,
    network,
    output,
    pooled,
    total,
)
from torch import Tensor, nn

from kdbench import NotApplicable, registry

MAPS = ((3, 8, 8), (4, 4, 4), (5, 2, 2))


@pytest.mark.equation
def test_byot_is_the_papers_three_losses() -> None:
    method = registry.create("byot")
    method.build(network(*MAPS), None)
    features, z, data = activations(*MAPS), logits(), batch()
    terms = method.loss(data, output(z, features), None)
    deepest = pooled(features[2]).detach()
    heads, kd, hints = [], [], []
    for k in range(2):
        small = method.bottlenecks[k](features[k])
        assert small.shape[1:] == MAPS[-1]
        own = pooled(small)
        classifier = method.classifiers[k]
        shallow = own @ classifier.weight.T + classifier.bias
        heads.append(labels(shallow, data))
        kd.append(imitation(shallow, z, 3.0))
        hints.append(mean(sum((own[n, c] - deepest[n, c]) ** 2 for c in range(5)) for n in range(BATCH)))
    expected = {"ce": labels(z, data), "heads": 0.9 * sum(heads), "kd": 0.1 * sum(kd), "hint": 1.28e-4 * sum(hints)}
    agree(terms, expected, [z, *features[:2], *method.parameters()])


def convolved(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """ReLU(BN(conv(x))) of a convolution without overlap, square by square, with the batch's statistics."""
    r = conv.stride[0]
    height, width = x.shape[2] // r, x.shape[3] // r
    squares = x[:, :, : r * height, : r * width].reshape(BATCH, x.shape[1], height, r, width, r)
    channels = []
    for o, weight in enumerate(conv.weight):
        values = conv.bias[o] + sum(
            weight[c, i, j] * squares[:, c, :, i, :, j]
            for c in range(x.shape[1]) for i in range(r) for j in range(r)
        )  # fmt: skip
        centred = values - values.mean()
        normed = bn.weight[o] * centred / torch.sqrt(centred.pow(2).mean() + bn.eps) + bn.bias[o]
        channels.append(normed * (normed > 0))
    return torch.stack(channels, 1)


@pytest.mark.equation
def test_byots_bottleneck_is_three_convolutions_of_which_the_second_shrinks_the_map() -> None:
    method = registry.create("byot")
    shapes = ((3, 8, 8), (4, 4, 4), (8, 2, 2))
    method.build(network(*shapes), None)
    for feature, bottleneck, ratio in zip(activations(*shapes), method.bottlenecks, (4, 2), strict=False):
        layers = list(bottleneck)
        convolutions, norms = layers[::3], layers[1::3]
        assert [conv.kernel_size[0] for conv in convolutions] == [1, ratio, 1]
        assert [conv.out_channels for conv in convolutions] == [2, 2, 8]
        expected = feature
        for conv, bn in zip(convolutions, norms, strict=True):
            nn.init.normal_(bn.weight, 1, 0.3)
            nn.init.normal_(bn.bias)
            expected = convolved(conv, bn, expected)
        direction = torch.randn_like(expected)
        ours, theirs = {"map": (direction * bottleneck(feature)).sum()}, {"map": (direction * expected).sum()}
        weights = [conv.weight for conv in convolutions]  # before BatchNorm a bias has no gradient but rounding
        agree(ours, theirs, [feature, *weights, *(p for bn in norms for p in bn.parameters())])


def test_byots_deepest_classifier_learns_from_labels_alone() -> None:
    method = registry.create("byot")
    method.build(network(*MAPS), None)
    features, z = activations(*MAPS), logits()
    terms = method.loss(batch(), output(z, features), None)
    assert torch.autograd.grad(total(terms), features[2], retain_graph=True, allow_unused=True) == (None,)
    close(torch.autograd.grad(total(terms), z)[0], torch.autograd.grad(F.cross_entropy(z, batch().targets), z)[0])


def test_byots_bottleneck_shrinks_maps_that_do_not_divide() -> None:
    method = registry.create("byot")
    method.build(network((3, 7, 7), (4, 7, 7), (5, 3, 3)), None)
    features = activations((3, 7, 7), (4, 7, 7), (5, 3, 3))
    assert [b(f).shape[2:] for b, f in zip(method.bottlenecks, features, strict=False)] == [(3, 3), (3, 3)]


def test_a_student_of_one_stage_has_no_place_for_branches() -> None:
    with pytest.raises(NotApplicable, match=r"^byot .*'some' has one"):
        registry.create("byot").build(network((3, 4, 4)), None)

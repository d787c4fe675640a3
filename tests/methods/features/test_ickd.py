"""ickd compares the channels of the last maps with one another: the authors' form, and the paper's."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    BATCH,
    agree,
    batch,
    bfloat16_terms,
    close,
    convolved,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    network,
    normed,
    output,
)
from torch import Tensor

from kdbench import Method, NotApplicable, Output, registry


def gram(feature: Tensor, normalise: bool) -> list[list[Tensor]]:
    """Products of one sample's channels `[C, H, W]`, each row divided by its norm."""
    rows = []
    for one in feature:
        row = [sum(a * b for a, b in zip(one.flatten(), other.flatten(), strict=True)) for other in feature]
        length = torch.sqrt(sum(value**2 for value in row)) if normalise else 1.0
        rows.append([value / length for value in row])
    return rows


def by_loops(ours: Tensor, theirs: Tensor, normalise: bool) -> Tensor:
    """The sum over all pairs of channels of all samples, over B C or B C^2."""
    total = torch.zeros(())
    for one, other in zip(ours, theirs, strict=True):
        for s, t in zip(gram(one, normalise), gram(other, normalise), strict=True):
            total = total + sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
    channels = theirs.shape[1]
    return total / (len(theirs) * channels * (1 if normalise else channels))


def built(**options: object) -> tuple[Method, Output, Output]:
    """A method on maps of unlike channels and sizes, the student's with gradients, the affine of BatchNorm moved."""
    method = registry.create("ickd", options)
    method.build(network((2, 8, 8), (3, 4, 4)), network((6, 4, 4), (4, 3, 3)))
    torch.nn.init.normal_(method.embed[1].weight, 1.0, 0.3)
    torch.nn.init.normal_(method.embed[1].bias)
    student = output(features=maps((2, 8, 8), (3, 4, 4), trained=True))
    return method, student, output(features=maps((6, 4, 4), (4, 3, 3)))


@pytest.mark.equation
@pytest.mark.parametrize("normalise", [True, False], ids=["the code's form", "the paper's form"])
def test_ickd_compares_the_channels_of_the_last_maps(normalise: bool) -> None:
    method, student, teacher = built(weight=3.0, normalise_rows=normalise)
    conv, norm = method.embed
    embedded = normed(norm, convolved(conv, student.features[1]))
    expected = {
        "ce": labels(student.logits, batch()),
        "correlation": 3 * by_loops(embedded, teacher.features[1], normalise),
    }
    tensors = [student.logits, student.features[1], conv.weight, norm.weight, norm.bias]
    agree(method.loss(batch(), student, teacher), expected, tensors)


def test_ickd_trains_a_convolution_without_bias_and_its_norm_on_the_students_side_alone() -> None:
    method, *_ = built()
    assert {name: tuple(p.shape) for name, p in method.named_parameters()} == {
        "embed.0.weight": (4, 3, 1, 1),
        "embed.1.weight": (4,),
        "embed.1.bias": (4,),
    }


def test_ickds_defaults_are_those_of_the_authors_readme() -> None:
    method = registry.create("ickd")
    assert (method.weight, method.ce_weight, method.normalise_rows, method.max_channels) == (2.5, 1.0, True, 2048)


def test_ickd_is_the_same_for_a_batch_that_stands_twice() -> None:
    method, student, teacher = built()
    twice = [output(torch.cat([o.logits] * 2), [torch.cat([f] * 2) for f in o.features]) for o in (student, teacher)]
    close(
        method.loss(batch(size=2 * BATCH), *twice)["correlation"], method.loss(batch(), student, teacher)["correlation"]
    )


def test_ickd_does_not_see_where_the_teachers_channels_respond() -> None:
    method, student, teacher = built()
    moved = output(features=[feature.flip(2).transpose(2, 3) for feature in teacher.features])
    close(method.loss(batch(), student, moved)["correlation"], method.loss(batch(), student, teacher)["correlation"])


def test_ickd_refuses_a_teacher_with_more_channels_than_the_memory_is_meant_for() -> None:
    pair = network((2, 4, 4)), network((4096, 4, 4))
    with pytest.raises(NotApplicable, match=r"4096 channels that 'some' ends in, which takes 64 MiB an image"):
        registry.create("ickd").build(*pair)
    registry.create("ickd", {"max_channels": 4096}).build(*pair)


def test_losses_on_bfloat16_maps_are_float32_and_finite() -> None:
    for term in bfloat16_terms("ickd").values():
        assert term.dtype == torch.float32
        assert term.isfinite()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("side", [1, 4])
def test_ickd_of_dead_maps_is_finite(side: int, size: int) -> None:
    torch.set_default_dtype(torch.float32)
    method = registry.create("ickd")
    method.build(network((3, side, side)), network((4, side, side)))
    dead = torch.zeros(size, 3, side, side, requires_grad=True)
    student, teacher = (output(logits(size=size), [f]) for f in (dead, torch.zeros(size, 4, side, side)))
    terms = method.loss(batch(size=size), student, teacher)
    assert all(term.isfinite() for term in terms.values())
    found = torch.autograd.grad(terms["correlation"], [dead, *method.parameters()])
    assert all(gradient.isfinite().all() for gradient in found)

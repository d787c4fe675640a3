"""cat_kd makes the class activation maps of student and teacher agree, region by region."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    CLASSES,
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    halved,
    labels,
    maps,
    mean,
    network,
    output,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, registry


def activation_maps(feature: Tensor, weight: Tensor, normalise: bool) -> list[Tensor]:
    """The value of each class at each of 2x2 regions, for each sample."""
    values = []
    while feature.shape[2] > 2:
        feature = halved(feature)
    for b in range(len(feature)):
        for k in range(len(weight)):
            cam = sum(weight[k, c] * feature[b, c] for c in range(feature.shape[1])).flatten()
            values += list(cam / torch.sqrt(sum(value**2 for value in cam)) if normalise else cam)
    return values


@pytest.mark.equation
@pytest.mark.parametrize("normalise", [False, True])
def test_cat_kd_matches_the_class_activation_maps_in_each_region(normalise: bool) -> None:
    heads = [nn.Linear(c, CLASSES) for c in (3, 5)]
    method = registry.create("cat_kd", {"normalise": normalise, "weight": 7.0})
    method.build(
        network((2, 8, 8), (3, 4, 4), classifier=heads[0]), network((5, 8, 8), embedding=5, classifier=heads[1])
    )
    student = output(features=maps((2, 8, 8), (3, 4, 4), trained=True))
    teacher = output(features=maps((5, 8, 8)))
    ours = activation_maps(student.features[-1], heads[0].weight, normalise)
    theirs = activation_maps(teacher.features[-1], heads[1].weight.detach(), normalise)
    attention = 7 * mean((s - t) ** 2 for s, t in zip(ours, theirs, strict=True))
    expected = {"ce": labels(student.logits, batch()), "attention": attention}
    tensors = [student.logits, student.features[1], heads[0].weight]  # the classifier learns from its maps too
    agree(method.loss(batch(), student, teacher), expected, tensors)
    assert not list(method.parameters())


def test_cat_kds_defaults_are_those_of_resnet32x4_to_resnet8x4() -> None:
    method = registry.create("cat_kd")
    assert (method.weight, method.resolution, method.normalise) == (15.0, 2, False)


def test_cat_kd_keeps_the_teachers_classifier_as_it_was_at_the_start() -> None:
    heads = [nn.Linear(3, CLASSES) for _ in range(2)]
    method = registry.create("cat_kd")
    method.build(*(network((3, 4, 4), classifier=head) for head in heads))
    before = heads[1].weight.detach().clone()
    heads[1].weight.data.zero_()
    assert torch.equal(method.state_dict()["weight_teacher"], before)


@pytest.mark.parametrize("side", [0, 1])
def test_cat_kd_refuses_a_classifier_that_does_not_read_the_last_maps_channels(side: int) -> None:
    pair = [network((3, 4, 4), classifier=nn.Linear(3, CLASSES)) for _ in range(2)]
    pair[side] = network((3, 4, 4), embedding=6, classifier=nn.Linear(6, CLASSES))
    with pytest.raises(NotApplicable, match="cat_kd needs a linear classifier on the last map, which 'some' has not"):
        registry.create("cat_kd").build(*pair)


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^cat_kd.*0"):
        registry.create("cat_kd", {"resolution": 0})

"""aekd mixes its teachers by the smallest mixture of their gradients."""

from __future__ import annotations

import pytest
import torch
from support.hints import hinted
from support.loops import (
    BATCH,
    agree,
    batch,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    network,
    output,
)
from torch import Tensor

from kdbench import KDBenchError, NotApplicable, registry
from kdbench.methods.multi_teacher.aekd import smallest_mix


@pytest.mark.parametrize("tolerance", [0.1, 0.4, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_aekds_weights_meet_the_conditions_of_the_smallest_mixture(count: int, tolerance: float) -> None:
    bound = min(max(tolerance, 1 / count), 1.0)
    for _ in range(10):
        vectors = torch.randn(count, 4) * torch.rand(count, 1) + torch.randn(4)
        weights = smallest_mix(vectors, tolerance)
        assert float(weights.sum()) == pytest.approx(1)
        assert ((weights >= 0) & (weights <= bound + 1e-9)).all()
        slopes = vectors @ (weights @ vectors)  # half the derivative of the squared length
        free = (weights > 1e-6) & (weights < bound - 1e-6)
        level = slopes[free].mean() if free.any() else slopes[weights > 1e-6].max()
        assert torch.allclose(slopes[free], level, atol=1e-7)
        assert (slopes[weights <= 1e-6] >= level - 1e-7).all()  # more of these makes the mixture longer
        if free.any():
            assert (slopes[weights >= bound - 1e-6] <= level + 1e-7).all()  # and so does less of these


def test_aekds_weights_are_even_between_equal_and_between_vanishing_gradients() -> None:
    for vectors in (torch.ones(3, 4), torch.zeros(3, 4)):
        for normalize in (False, True):
            torch.testing.assert_close(
                smallest_mix(vectors, 0.6, normalize), torch.full((3,), 1 / 3), rtol=0, atol=1e-5
            )


def two_weights(a: Tensor, b: Tensor, tolerance: float) -> list[Tensor]:
    """The minimum of |w a + (1 - w) b|^2, which for two vectors is a parabola's."""
    difference = a - b
    w = (-(b * difference).sum() / (difference * difference).sum()).clamp(1 - tolerance, tolerance)
    return [w, 1 - w]


@pytest.mark.equation
@pytest.mark.parametrize("tolerance", [0.6, 1.0])
def test_aekd_mixes_divergences_by_their_gradients_in_the_logits(tolerance: float) -> None:
    z, teachers, data = logits(), [output() for _ in range(2)], batch()
    divergences = [mean(kl(z[i], teacher.logits[i], 4.0) for i in range(BATCH)) for teacher in teachers]
    gradients = [torch.autograd.grad(each, z, retain_graph=True)[0].mean(0) for each in divergences]
    weights = two_weights(*gradients, tolerance)
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "kd": sum((w * each for w, each in zip(weights, divergences, strict=True)), torch.zeros(())),
    }
    terms = registry.create("aekd", {"tolerance": tolerance}).loss(data, output(z), teachers)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-7, atol=0)
    ours, theirs = (torch.autograd.grad(sum(each.values()), z)[0] for each in (terms, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_aekd_without_room_for_disagreement_is_the_average() -> None:
    z, teachers = logits(), [output() for _ in range(3)]
    tight, average = (
        registry.create(name, options).loss(batch(), output(z), teachers)
        for name, options in (("aekd", {"tolerance": 1 / 3}), ("aver_mkd", {}))
    )
    agree(tight, average, [z])


@pytest.mark.equation
@pytest.mark.parametrize("normalize", [None, False])
def test_aekd_on_features_mixes_hints_by_their_gradients_in_the_second_map(normalize: bool | None) -> None:
    method, student, teachers, losses = hinted("aekd", on="features", normalize=normalize)
    gradients = [torch.autograd.grad(each, student.features[1], retain_graph=True)[0] for each in losses]
    pulls = [gradient.flatten(1).mean(0) for gradient in gradients]
    if normalize is None:  # as coded: directions, and the weights divided by the lengths afterwards
        lengths = [pull.norm() for pull in pulls]
        w = [
            x / n
            for x, n in zip(
                two_weights(*[p / n for p, n in zip(pulls, lengths, strict=True)], 0.6), lengths, strict=True
            )
        ]
        weights = [each / sum(w) for each in w]
    else:
        weights = two_weights(*pulls, 0.6)
    terms = method.loss(batch(), student, teachers)
    expected = 100 * sum(w.detach() * each for w, each in zip(weights, losses, strict=True))
    torch.testing.assert_close(terms["feature"], expected, rtol=1e-7, atol=0)
    tensors = [student.features[1], *method.parameters()]
    for ours, theirs in zip(
        *(torch.autograd.grad(each, tensors) for each in (terms["feature"], expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_aekd_says_which_student_has_too_many_teachers() -> None:
    with pytest.raises(NotApplicable, match="at most 7 teachers, but student 'some' has 8"):
        registry.create("aekd").build(network(), [network()] * 8)


def test_hints_start_in_the_second_epoch() -> None:
    method, student, teachers, _ = hinted("aekd", on="features")
    method.epoch = 1
    assert method.loss(batch(), student, teachers).keys() == {"ce", "kd"}


def test_aekd_has_no_kd_scale_which_its_weights_that_sum_to_one_would_not_heed() -> None:
    with pytest.raises(KDBenchError, match="kd_scale"):
        registry.create("aekd", {"kd_scale": "unit"})

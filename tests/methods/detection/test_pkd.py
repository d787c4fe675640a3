"""pkd compares the patterns of two pyramids, whatever their magnitudes."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.detectors import batch, detector, imitation, method, run
from support.loops import float64  # noqa: F401  (a fixture for every test here)

from kdbench.methods.detection.pkd import pearson


@pytest.mark.equation
def test_a_level_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("pkd_det")
    ours, theirs = golden["feat_s"], golden["feat_t"]
    goldens.require(ours)
    loss = 6 * pearson(ours, theirs)
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"feat_s": ours}, {}, golden)


def test_all_levels_of_the_pyramid_are_summed() -> None:
    student, teacher = detector(), detector(seed=1)
    given = batch()
    terms = imitation(run(method("pkd", student, teacher, weight=2.0), student, teacher, given))
    pairs = zip(student(given.inputs).pyramid, teacher(given.inputs).pyramid, strict=True)
    goldens.close(terms["feature"], 2.0 * sum(pearson(ours, theirs) for ours, theirs in pairs))


def test_a_map_of_one_number_is_no_nan() -> None:
    ours = torch.randn(1, 4, 1, 1, requires_grad=True)
    loss = pearson(ours, torch.randn(1, 4, 1, 1))
    assert loss == 0
    assert torch.autograd.grad(loss, ours)[0].isfinite().all()


def test_a_map_that_is_wider_and_not_higher_is_resized() -> None:
    assert pearson(torch.randn(2, 4, 3, 6), torch.randn(2, 4, 3, 3)).isfinite()


def test_magnitude_and_offset_of_a_channel_do_not_count() -> None:
    feature = torch.randn(2, 4, 5, 5)
    assert pearson(3 * feature + 7, feature) < 1e-10


def test_pyramids_of_two_widths_meet_through_a_bridge() -> None:
    student, teacher = detector(), detector(seed=1, width=16)
    made = method("pkd", student, teacher)
    run(made, student, teacher, batch())["feature"].backward()
    assert made.bridge.weight.grad.abs().sum() > 0

"""fgfi imitates the places near objects through an adapter."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.detectors import batch, detector, method, run
from support.loops import float64  # noqa: F401  (a fixture for every test here)
from torch import nn

from kdbench.methods.detection.fgfi import masked_imitation, places_of_objects


@pytest.mark.equation
def test_the_loss_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("fgfi")
    ours, theirs = golden["feat_s"], golden["feat_t"]
    goldens.require(ours)
    adapter = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    goldens.load_parameters(adapter, golden, "adap.")
    loss = 0.01 * masked_imitation([adapter(ours)], [theirs], [golden["mask"]])
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"feat_s": ours}, {}, golden)


def test_a_place_counts_from_more_than_half_of_the_objects_best_overlap() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    # IoU with the box: 0.8, 0.5, 0.4 (just half of the best) and nothing, in two levels
    fine = torch.tensor([[[0, 0, 10, 8.0]], [[0, 0, 10, 5.0]]])
    coarse = torch.tensor([[[0, 0, 10, 4.0]], [[20, 20, 30, 30.0]]])
    assert [level.tolist() for level in places_of_objects([fine, coarse], box)] == [[True, True], [False, False]]
    assert not any(level.any() for level in places_of_objects([fine, coarse], torch.zeros(0, 4)))
    far = torch.tensor([[100.0, 100.0, 110.0, 110.0]])  # that no anchor touches
    assert not any(level.any() for level in places_of_objects([fine, coarse], far))


def test_masks_are_where_the_objects_are() -> None:
    made = method("fgfi", detector(), detector(seed=1))
    maps = [torch.zeros(2, 8, size, size) for size in (8, 4, 2)]
    fine, *_ = made.masks([torch.tensor([[0.0, 0.0, 32.0, 32.0]]), torch.zeros(0, 4)], maps)
    assert fine.shape == (2, 1, 8, 8)
    assert fine[0, 0, 2, 2] == 1  # the object's middle, at 16 px
    assert fine[0, 0, 7, 7] == 0
    assert fine[1].sum() == 0


def test_a_batch_without_objects_gives_a_zero_that_hangs_on_the_student() -> None:
    student, teacher = detector(), detector(seed=1)
    term = run(method("fgfi", student, teacher), student, teacher, batch([[], []]))["feature"]
    assert term == 0
    term.backward()


def test_the_adapter_trains_with_the_method() -> None:
    student, teacher = detector(), detector(seed=1, width=16)
    made = method("fgfi", student, teacher)
    run(made, student, teacher, batch())["feature"].backward()
    assert made.adapter[0].weight.shape == (16, 8, 3, 3)
    assert made.adapter[0].weight.grad.abs().sum() > 0

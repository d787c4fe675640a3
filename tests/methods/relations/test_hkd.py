"""hkd is the SemCKD toolbox's divergence of similarities, stage by stage."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import (
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    output,
)

from kdbench import registry


@pytest.mark.equation
def test_hkd_agrees_with_the_semckd_toolbox_in_value_and_gradient() -> None:
    golden = goldens.load("hkd")
    ours, theirs = goldens.sides(golden)
    student, teacher = goldens.output(features=ours), goldens.output(features=theirs)
    loss = registry.create("hkd").loss(goldens.batch(), student, teacher)["flow"]
    goldens.close(loss, golden["loss"])
    # a sample's distance to itself is the root of a rounding error; the gradients go up to 2e-3
    goldens.gradients_agree(loss, goldens.named(ours), {}, golden, atol=1e-11)


def test_hkd_of_equal_maps_is_cross_entropy() -> None:
    z, data, same = logits(), batch(), maps((3, 4, 4), (4, 2, 2))
    terms = registry.create("hkd").loss(data, output(z, same), output(features=same))
    agree(terms, {"ce": labels(z, data), "flow": torch.zeros(())}, [z])

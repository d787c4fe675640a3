"""irg is the SemCKD toolbox's agreement of graphs and of their changes."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
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
def test_irg_agrees_with_the_semckd_toolbox_in_value_and_gradient() -> None:
    golden = goldens.load("irg")
    ours, theirs = goldens.sides(golden)
    goldens.require(golden["feat_s"])
    student = goldens.output(features=ours, embedding=golden["feat_s"])
    teacher = goldens.output(features=theirs, embedding=golden["feat_t"])
    terms = registry.create("irg").loss(goldens.batch(), student, teacher)
    loss = terms["graph"] + terms["transform"]
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"feat_s": student.embedding}, {}, golden)


def test_irg_of_equal_networks_is_cross_entropy() -> None:
    z, data, same = logits(), batch(), maps((3, 4, 4), (4, 2, 2))
    student, teacher = (output(given, same, embedding=torch.ones(BATCH, 3)) for given in (z, logits()))
    expected = {"ce": labels(z, data), "graph": torch.zeros(()), "transform": torch.zeros(())}
    agree(registry.create("irg").loss(data, student, teacher), expected, [z])

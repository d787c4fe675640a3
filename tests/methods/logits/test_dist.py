"""dist agrees with the authors' code."""

from __future__ import annotations

import pytest
from support import goldens
from support.loops import (
    float64,  # noqa: F401  (a fixture for every test here)
)

from kdbench import registry


@pytest.mark.equation
@pytest.mark.parametrize("tau", [1, 4])
def test_dist_agrees_with_the_authors_code_in_value_and_gradient(tau: int) -> None:
    golden = goldens.load("dist")
    student, teacher = goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    goldens.require(student.logits)
    terms = registry.create("dist", {"temperature": float(tau)}).loss(goldens.batch(), student, teacher)
    loss = (terms["inter"] + terms["intra"]) / 2
    goldens.close(loss, golden[f"loss_tau{tau}"])
    if tau == 1:
        goldens.close(loss, golden["loss"])
        goldens.close(terms["inter"] / 2, golden["loss_inter_tau1"])
        goldens.close(terms["intra"] / 2, golden["loss_intra_tau1"])
        goldens.gradients_agree(loss, {"logits_s": student.logits}, {}, golden)


def test_dists_defaults_are_those_of_cifar() -> None:
    golden = goldens.load("dist")
    terms = registry.create("dist").loss(
        goldens.batch(), goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    )
    goldens.close(terms["inter"] + terms["intra"], 2 * golden["loss_tau4"])

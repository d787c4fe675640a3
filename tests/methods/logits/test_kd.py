"""kd agrees with RepDistiller and mdistiller."""

from __future__ import annotations

import pytest
from support import goldens
from support.loops import (
    float64,  # noqa: F401  (a fixture for every test here)
)

from kdbench import registry


@pytest.mark.equation
def test_kd_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = goldens.load("kd")
    goldens.require(golden["logits_s"])
    at_defaults = registry.create("kd").loss(
        goldens.batch(golden["target"]), goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    )
    goldens.close(sum(at_defaults.values()), golden["loss_total"])
    goldens.close(at_defaults["ce"] / 0.1, golden["loss_ce"])
    loss = at_defaults["kd"] / 0.9
    goldens.close(loss, golden["loss"])
    goldens.close(loss, golden["loss_mdistiller"])
    goldens.gradients_agree(loss, {"logits_s": golden["logits_s"]}, {}, golden)

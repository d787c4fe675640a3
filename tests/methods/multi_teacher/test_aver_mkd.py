"""aver_mkd agrees with the code of CA-MKD."""

from __future__ import annotations

import pytest
from support import goldens
from support.loops import (
    float64,  # noqa: F401  (a fixture for every test here)
)

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_aver_mkd_agrees_with_the_ca_mkd_code_in_value_and_gradient() -> None:
    golden = goldens.load("aver_mkd")
    goldens.require(golden["logits_s"])
    teachers = [goldens.output(golden[f"logits_t_{k}"]) for k in range(3)]
    terms = registry.create("aver_mkd").loss(
        goldens.batch(golden["target"]), goldens.output(golden["logits_s"]), teachers
    )
    goldens.close(terms["ce"], golden["loss_ce"])
    goldens.close(terms["kd"], golden["loss_kd"])
    goldens.close(sum(terms.values()), golden["loss_total"])
    goldens.gradients_agree(sum(terms.values()), {"logits_s": golden["logits_s"]}, {}, golden)


def test_aver_mkd_has_no_kd_scale_which_its_weights_that_sum_to_one_would_not_heed() -> None:
    with pytest.raises(KDBenchError, match="kd_scale"):
        registry.create("aver_mkd", {"kd_scale": "unit"})

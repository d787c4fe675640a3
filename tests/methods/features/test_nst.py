"""nst is RepDistiller's mean discrepancy of the channels under a polynomial kernel."""

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
def test_nst_agrees_with_repdistiller_in_value_and_gradient() -> None:
    from kdbench.methods.features.nst import discrepancy

    golden = goldens.load("nst")
    ours, theirs = goldens.sides(golden)
    student, teacher = goldens.output(features=ours), goldens.output(features=theirs)
    loss = registry.create("nst").loss(goldens.batch(), student, teacher)["selectivity"] / 50
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, goldens.named(ours), {}, golden)
    for k, pair in enumerate(zip(ours, theirs, strict=True)):
        goldens.close(discrepancy(*pair), golden[f"loss_stage_{k}"])


def test_nst_of_equal_maps_is_cross_entropy() -> None:
    z, data, same = logits(), batch(), maps((3, 4, 4), (4, 2, 2))
    terms = registry.create("nst").loss(data, output(z, same), output(features=same))
    agree(terms, {"ce": labels(z, data), "selectivity": torch.zeros(())}, [z])

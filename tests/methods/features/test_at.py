"""at is RepDistiller's attention transfer at every stage, beside cross-entropy."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    bfloat16_terms,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    output,
)

from kdbench import registry


@pytest.mark.equation
def test_at_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = goldens.load("at")
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(3)] for side in "st")
    goldens.require(*ours)
    student, teacher = goldens.output(features=ours), goldens.output(features=theirs)
    loss = registry.create("at").loss(goldens.batch(), student, teacher)["attention"] / 1000
    goldens.close(loss, golden["loss"])
    goldens.close(loss, golden["loss_mdistiller"])
    goldens.gradients_agree(loss, {f"feat_s_{k}": feature for k, feature in enumerate(ours)}, {}, golden)


def test_at_pairs_stages_from_the_shallowest_on_where_their_numbers_differ() -> None:
    maps = [torch.rand(BATCH, 3, size, size) for size in (8, 4, 2)]
    at = registry.create("at")
    longer = at.loss(batch(), output(features=maps), output(features=[m.flip(0) for m in maps[:2]]))
    equal = at.loss(batch(), output(features=maps[:2]), output(features=[m.flip(0) for m in maps[:2]]))
    close(longer["attention"], equal["attention"])


def test_losses_on_bfloat16_maps_are_float32_and_finite() -> None:
    for term in bfloat16_terms("at").values():
        assert term.dtype == torch.float32
        assert term.isfinite()


def test_at_of_equal_maps_is_cross_entropy() -> None:
    z, data, same = logits(), batch(), maps((3, 4, 4), (4, 2, 2))
    terms = registry.create("at").loss(data, output(z, same), output(features=same))
    agree(terms, {"ce": labels(z, data), "attention": torch.zeros(())}, [z])

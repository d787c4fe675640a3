"""mlld agrees with the authors' code, alone and on the standardised logits of lskd."""

from __future__ import annotations

from typing import Any

import pytest
from support import goldens
from support.loops import (
    float64,  # noqa: F401  (a fixture for every test here)
)

from kdbench import registry


@pytest.mark.equation
@pytest.mark.parametrize(
    ("name", "method", "hyperparameters"),
    [("mlld", "mlld", {}), ("mlkd_ls", "lskd", {"base": "mlld", "weight": 0.9, "temperature": 4.0})],
)
def test_mlld_agrees_with_the_authors_code_in_value_and_gradient(
    name: str, method: str, hyperparameters: dict[str, Any]
) -> None:
    golden = goldens.load(name)
    weak, strong = golden["logits_s_weak"], golden["logits_s_strong"]
    goldens.require(weak, strong)
    student, teacher = (
        goldens.output(golden[f"logits_{side}_weak"], strong=goldens.output(golden[f"logits_{side}_strong"]))
        for side in "st"
    )
    terms = registry.create(method, hyperparameters).loss(goldens.batch(golden["target"]), student, teacher)
    for ours, theirs in {"ce": "ce", "kd": "kd", "classes": "cc", "batch": "bc"}.items():
        goldens.close(terms[ours], golden[f"loss_{theirs}"])
    loss = sum(terms.values())
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"logits_s_weak": weak, "logits_s_strong": strong}, {}, golden)

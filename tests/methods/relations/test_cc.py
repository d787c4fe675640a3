"""cc is RepDistiller's congruence of neighbouring samples, beside cross-entropy."""

from __future__ import annotations

import pytest
from support import goldens
from support.loops import (
    BATCH,
    batch,
    close,
    embedded,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    network,
)

from kdbench import registry


@pytest.mark.equation
def test_cc_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = goldens.load("cc")
    goldens.require(golden["feat_s"])
    student, teacher = (goldens.output(embedding=golden[f"feat_{side}"]) for side in "st")
    method = registry.create("cc", {"width": 16})
    method.build(goldens.network([], embedding=student.embedding), goldens.network([], embedding=teacher.embedding))
    method.double()
    modules = {"embed_s.linear.": method.embed_student, "embed_t.linear.": method.embed_teacher}
    for prefix, module in modules.items():
        goldens.load_parameters(module, golden, prefix)
    loss = method.loss(goldens.batch(), student, teacher)["congruence"] / 0.02
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"feat_s": student.embedding}, modules, golden)


@pytest.mark.parametrize("size", [BATCH, 1])
def test_cc_adds_cross_entropy_and_one_sample_has_no_neighbour(size: int) -> None:
    method = registry.create("cc")
    method.build(network(embedding=3), network(embedding=6))
    student, teacher, data = embedded(3, size), embedded(6, size), batch(size=size)
    terms = method.loss(data, student, teacher)
    close(terms["ce"], labels(student.logits, data))
    assert (terms["congruence"] == 0) == (size == 1)

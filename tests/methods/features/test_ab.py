"""ab moves the student's neurons to the teacher's side of zero, as RepDistiller does, and then trains on labels."""

from __future__ import annotations

import pytest
from support import goldens
from support.loops import (
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    output,
)

from kdbench import registry


@pytest.mark.equation
def test_ab_agrees_with_repdistiller_in_value_and_gradient() -> None:
    golden = goldens.load("ab")
    ours, theirs = goldens.sides(golden)
    method = registry.create("ab")
    method.build(goldens.network([], preactivations=ours), goldens.network([], preactivations=theirs))
    method.double()
    goldens.load_parameters(method.connectors, golden, "connector.connectors.")
    method.phase = "init"
    terms = method.loss(goldens.batch(), goldens.output(preactivations=ours), goldens.output(preactivations=theirs))
    assert terms.keys() == {"boundary"}
    goldens.close(terms["boundary"], golden["loss"])
    goldens.gradients_agree(
        terms["boundary"], goldens.named(ours), {"connector.connectors.": method.connectors}, golden
    )
    for k, connector in enumerate(method.connectors):
        stage = method.boundary(connector(ours[k]), theirs[k]) * 3 / (1000 * 8) * 2.0 ** (k - 2)
        goldens.close(stage, golden[f"loss_stage_{k}"])


def test_ab_compares_maps_of_one_shape_as_they_are() -> None:
    golden = goldens.load("ab")
    ours, theirs = golden["feat_s_0"], golden["feat_s_0"].flip(0)
    method = registry.create("ab")
    method.build(goldens.network([], preactivations=[ours]), goldens.network([], preactivations=[theirs]))
    method.phase = "init"
    terms = method.loss(goldens.batch(), goldens.output(preactivations=[ours]), goldens.output(preactivations=[theirs]))
    assert not list(method.parameters())
    goldens.close(terms["boundary"], method.boundary(ours, theirs) * 3 / 8000)


def test_ab_trains_on_labels_alone_after_its_initialisation() -> None:
    method = registry.create("ab")
    method.phase = "train"
    z, data = logits(), batch()
    agree(method.loss(data, output(z), output()), {"ce": labels(z, data)}, [z])

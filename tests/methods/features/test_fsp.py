"""fsp learns the flow between successive maps, as RepDistiller does, and then the labels."""

from __future__ import annotations

import pytest
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
def test_fsp_agrees_with_repdistiller_in_value_and_gradient() -> None:
    from kdbench.methods.features.fsp import flow

    golden = goldens.load("fsp")
    ours, theirs = goldens.sides(golden)
    method = registry.create("fsp")
    method.build(goldens.network(ours), goldens.network(theirs))
    method.phase = "init"
    terms = method.loss(goldens.batch(), goldens.output(features=ours), goldens.output(features=theirs))
    assert terms.keys() == {"flow"}
    goldens.close(terms["flow"] / 50, golden["loss"])
    goldens.gradients_agree(terms["flow"] / 50, goldens.named(ours), {}, golden)
    matrices = list(zip(flow(goldens.output(features=ours)), flow(goldens.output(features=theirs)), strict=True))
    goldens.close(matrices[0][0], golden["out_fsp_s_0"])
    for k, (student, teacher) in enumerate(matrices):
        goldens.close((student - teacher).pow(2).mean(), golden[f"loss_pair_{k}"])


def test_fsp_trains_on_labels_alone_after_its_initialisation() -> None:
    method = registry.create("fsp")
    method.phase = "train"
    z, data, shapes = logits(), batch(), ((3, 4, 4), (4, 2, 2))
    terms = method.loss(data, output(z, maps(*shapes)), output(features=maps(*shapes)))
    agree(terms, {"ce": labels(z, data)}, [z])

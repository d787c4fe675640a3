"""mgd generates the teacher's map from the student's masked one, as the authors' code does."""

from __future__ import annotations

from unittest import mock

import pytest
from support import goldens
from support.loops import (
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    network,
    output,
)

from kdbench import registry


@pytest.mark.equation
def test_mgd_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("mgd")
    ours, theirs = golden["feat_s"], golden["feat_t"]
    goldens.require(ours)
    method = registry.create("mgd")
    method.build(goldens.network([ours]), goldens.network([theirs]))
    method.double()
    modules = {"align.": method.align, "generation.": method.generation}
    for prefix, module in modules.items():
        goldens.load_parameters(module, golden, prefix)
    with mock.patch("torch.rand", return_value=golden["uniform"]):
        terms = method.loss(goldens.batch(), goldens.output(features=[ours]), goldens.output(features=[theirs]))
    loss = terms["generation"]
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"feat_s": ours}, modules, golden)


def test_mgd_adds_cross_entropy_and_aligns_only_where_the_channels_differ() -> None:
    method = registry.create("mgd")
    method.build(network((3, 4, 4)), network((3, 4, 4)))
    assert not list(method.align.parameters())
    z, data = logits(), batch()
    terms = method.loss(data, output(z, maps((3, 4, 4))), output(features=maps((3, 4, 4))))
    close(terms["ce"], labels(z, data))

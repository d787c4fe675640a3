"""ft learns the factors that RepDistiller's paraphraser makes of the teacher's last map."""

from __future__ import annotations

from typing import Any

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
from torch import Tensor

from kdbench import registry


def ft() -> tuple[Any, dict[str, Tensor]]:
    golden = goldens.load("ft")
    method = registry.create("ft")
    method.build(goldens.network([golden["feat_s"]]), goldens.network([golden["feat_t"]]))
    method.double()
    for name in ("encoder", "decoder"):
        goldens.load_parameters(getattr(method, name), golden, f"paraphraser.{name}.")
    goldens.load_parameters(method.translator, golden, "translator.encoder.")
    return method, golden


@pytest.mark.equation
def test_ft_agrees_with_repdistiller_in_value_and_gradient() -> None:
    method, golden = ft()
    goldens.require(golden["feat_s"])
    method.phase = "train"
    terms = method.loss(
        goldens.batch(), goldens.output(features=[golden["feat_s"]]), goldens.output(features=[golden["feat_t"]])
    )
    goldens.close(terms["factor"] / 200, golden["loss"])
    goldens.gradients_agree(
        terms["factor"] / 200, {"feat_s": golden["feat_s"]}, {"translator.encoder.": method.translator}, golden
    )


def test_fts_factors_and_reconstruction_agree_with_repdistiller() -> None:
    method, golden = ft()
    goldens.close(method.translator(golden["feat_s"]), golden["out_factor_s"])
    goldens.close(method.encoder(golden["feat_t"]), golden["out_factor_t"])
    method.phase = "init"
    terms = method.loss(
        goldens.batch(), goldens.output(features=[golden["feat_s"]]), goldens.output(features=[golden["feat_t"]])
    )
    goldens.close(terms["paraphrase"], golden["loss_rec"])


@pytest.mark.parametrize("phase", ["init", "train"])
def test_ft_learns_from_labels_in_both_phases(phase: str) -> None:
    method = registry.create("ft")
    method.build(network((3, 4, 4)), network((6, 4, 4)))
    method.phase = phase
    z, data = logits(), batch()
    terms = method.loss(data, output(z, maps((3, 4, 4))), output(features=maps((6, 4, 4))))
    close(terms["ce"], labels(z, data))

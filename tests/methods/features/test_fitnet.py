"""fitnet fits one of the student's maps to the teacher's through RepDistiller's regressor."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    batch,
    bfloat16_terms,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    network,
    output,
)

from kdbench import NotApplicable, registry


@pytest.mark.equation
@pytest.mark.parametrize("case", ["same", "down", "up", "valid"])
def test_fitnet_agrees_with_repdistiller_in_value_and_gradient(case: str) -> None:
    golden = goldens.load("fitnet")
    ours, theirs = golden[f"feat_s_{case}"], golden[f"feat_t_{case}"]
    goldens.require(ours)
    method = registry.create("fitnet", {"stage": 1})
    method.build(goldens.network([ours]), goldens.network([theirs]))
    method.double()
    goldens.load_parameters(method.hint, golden, f"{case}.")
    loss = method.loss(goldens.batch(), goldens.output(features=[ours]), goldens.output(features=[theirs]))["feature"]
    goldens.close(loss / 100, golden[f"loss_{case}"])
    goldens.gradients_agree(loss / 100, {f"feat_s_{case}": ours}, {f"{case}.": method.hint}, golden)


def test_fitnet_takes_its_hint_from_the_second_stage_behind_the_stem() -> None:
    golden = goldens.load("fitnet")
    ours, theirs = golden["feat_s_same"], golden["feat_t_same"]
    method = registry.create("fitnet")
    method.build(goldens.network([theirs, ours, theirs]), goldens.network([ours, theirs, ours]))
    method.double()
    goldens.load_parameters(method.hint, golden, "same.")
    loss = method.loss(
        goldens.batch(), goldens.output(features=[theirs, ours, theirs]), goldens.output(features=[ours, theirs, ours])
    )
    goldens.close(loss["feature"] / 100, golden["loss_same"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((3, 12), (6, 12)), ((3, 12), (6, 6)), ((3, 6), (6, 12)), ((3, 7), (6, 5)), ((3, 2), (6, 12)), ((3,), (6,))],
    ids=["same", "down", "up", "valid", "much smaller", "no space"],
)
def test_fitnet_fits_features_with_one_spatial_axis_or_none(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    method = registry.create("fitnet", {"stage": 1})
    method.build(network(ours), network(theirs))
    student = torch.randn(BATCH, *ours, requires_grad=True)
    terms = method.loss(batch(), output(features=[student]), output(features=[torch.randn(BATCH, *theirs)]))
    gradients = torch.autograd.grad(terms["feature"], [student, *method.parameters()])
    assert all(gradient.isfinite().all() and gradient.shape for gradient in gradients)


def test_fitnet_says_which_network_lacks_the_hints_stage() -> None:
    with pytest.raises(NotApplicable, match="fitnet's stage is 3, but network 'some' has 1 stages"):
        registry.create("fitnet", {"stage": 3}).build(network((3, 4, 4)), network((3, 4, 4)))


def test_losses_on_bfloat16_maps_are_float32_and_finite() -> None:
    for term in bfloat16_terms("fitnet").values():
        assert term.dtype == torch.float32
        assert term.isfinite()


def test_fitnet_adds_cross_entropy() -> None:
    method = registry.create("fitnet", {"stage": 1})
    method.build(network((3, 4, 4)), network((5, 4, 4)))
    z, data = logits(), batch()
    terms = method.loss(data, output(z, maps((3, 4, 4))), output(features=maps((5, 4, 4))))
    close(terms["ce"], labels(z, data))

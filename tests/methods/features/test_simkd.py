"""simkd fits the projected map to the teacher's and deploys the teacher's classifier on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    CLASSES,
    bfloat16_terms,
    dataset,
    float64,  # noqa: F401  (a fixture for every test here)
    logits,
    network,
    output,
)
from torch import Tensor, nn

from kdbench import NotApplicable, Output, registry


class Body(nn.Module):
    """A deployed student's body that gives one stored map."""

    def __init__(self, feature: Tensor) -> None:
        super().__init__()
        self.feature = feature

    def forward(self, inputs: Tensor) -> Output:
        return goldens.output(features=[self.feature])


def simkd(case: str) -> tuple[Any, dict[str, Tensor]]:
    golden = goldens.load("simkd")
    ours, theirs = golden[f"feat_s_{case}"], golden[f"feat_t_{case}"]
    classifier = nn.Linear(theirs.shape[1], goldens.CLASSES).double()
    goldens.load_parameters(classifier, golden, f"{case}.teacher_fc.")
    method = registry.create("simkd")
    method.build(goldens.network([ours]), goldens.network([theirs], classifier))
    method.double()
    goldens.load_parameters(method.transfer, golden, f"{case}.transfer.")
    return method, golden


@pytest.mark.equation
@pytest.mark.parametrize("case", ["same", "s_larger", "t_larger"])
def test_simkd_agrees_with_the_authors_code_in_value_and_gradient(case: str) -> None:
    method, golden = simkd(case)
    ours, theirs = golden[f"feat_s_{case}"], golden[f"feat_t_{case}"]
    goldens.require(ours)
    terms = method.loss(goldens.batch(), goldens.output(features=[ours]), goldens.output(features=[theirs]))
    assert terms.keys() == {"feature"}  # no label, no cross-entropy
    goldens.close(terms["feature"], golden[f"loss_{case}"])
    goldens.gradients_agree(terms["feature"], {f"feat_s_{case}": ours}, {f"{case}.transfer.": method.transfer}, golden)


@pytest.mark.parametrize("case", ["same", "s_larger", "t_larger"])
def test_simkd_deploys_the_logits_of_the_authors_code(case: str) -> None:
    method, golden = simkd(case)
    deployed = method.deploy(Body(golden[f"feat_s_{case}"]))
    goldens.close(deployed(torch.zeros(8, 1)), golden[f"out_logits_{case}"])


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_simkds_factor_divides_the_projectors_width(factor: int) -> None:
    method = registry.create("simkd", {"factor": factor})
    method.build(network((3, 4, 4)), network((8, 4, 4), embedding=8, classifier=nn.Linear(8, CLASSES)))
    convolutions = [m for m in method.transfer.modules() if isinstance(m, nn.Conv2d)]
    middle = 8 // factor
    assert [tuple(conv.weight.shape) for conv in convolutions] == [
        (middle, 3, 1, 1), (middle, middle, 3, 3), (8, middle, 1, 1)
    ]  # fmt: skip


def test_a_teacher_whose_classifier_does_not_read_the_pooled_map_is_refused() -> None:
    z = logits(size=8)

    def unpooled(inputs: Tensor) -> Output:
        return output(z[: len(inputs)], [torch.ones(len(inputs), 3, 2, 2)], embedding=torch.zeros(len(inputs), 3))

    unpooled.name = "a_vit"  # type: ignore[attr-defined]
    method = registry.create("simkd")
    with pytest.raises(NotApplicable, match="classifier on the pooled last map, which 'a_vit' has not"):
        method.prepare(dataset(torch.arange(8) % CLASSES), [unpooled])


def test_losses_on_bfloat16_maps_are_float32_and_finite() -> None:
    for term in bfloat16_terms("simkd").values():
        assert term.dtype == torch.float32
        assert term.isfinite()

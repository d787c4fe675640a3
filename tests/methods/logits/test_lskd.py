"""lskd standardises logits as the authors' code does, for kd and for dkd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor, nn

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_lskd_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("lskd")
    student, teacher = goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    goldens.require(student.logits)
    terms = registry.create("lskd").loss(goldens.batch(golden["target"]), student, teacher)
    goldens.close(terms["ce"], 0.1 * nn.functional.cross_entropy(student.logits, golden["target"]))
    goldens.close(terms["kd"], 9 * golden["loss"])
    goldens.gradients_agree(terms["kd"] / 9, {"logits_s": student.logits}, {}, golden)


def test_lskd_standardises_as_the_authors_code_does() -> None:
    from kdbench.methods.logits.lskd import standardised

    golden = goldens.load("lskd")
    goldens.close(standardised(golden["logits_s"]), golden["out_z_s"])


def test_lskd_on_dkd_agrees_with_the_authors_code() -> None:
    golden = goldens.load("lskd")
    student, teacher = goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    terms = registry.create("lskd", {"base": "dkd"}).loss(goldens.batch(golden["target"]), student, teacher)
    goldens.close(terms["tckd"] + terms["nckd"], 9 * golden["loss_dkd_ls"])
    goldens.close(terms["ce"], nn.functional.cross_entropy(student.logits, golden["target"]))


def normalised(values: Sequence[Tensor]) -> list[Tensor]:
    return [value / sum(values) for value in values]


def without(values: Sequence[Tensor], target: int) -> list[Tensor]:
    return [value for c, value in enumerate(values) if c != target]


def z_scores(z: Tensor) -> list[Tensor]:
    """One row's, with the unbiased standard deviation."""
    centre = sum(z) / len(z)
    deviation = torch.sqrt(sum((value - centre) ** 2 for value in z) / (len(z) - 1))
    return [(value - centre) / (deviation + 1e-7) for value in z]


@pytest.mark.equation
def test_lskd_with_dkd_decouples_standardised_logits_and_multiplies_both_weights_by_nine() -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    target, rest = [], []
    for b in range(BATCH):
        y = int(data.targets[b])
        ours, theirs = (probabilities(torch.stack(z_scores(x[b])), 2.0) for x in (z, teacher))
        target.append(4 * divergence(*([p[y], 1 - p[y]] for p in (theirs, ours))))
        rest.append(4 * divergence(*(normalised(without(p, y)) for p in (theirs, ours))))
    expected = {"ce": labels(z, data), "tckd": 9 * mean(target), "nckd": 9 * 8 * mean(rest)}
    method = registry.create("lskd", {"base": "dkd", "ce_weight": 1.0})
    method.epoch, method.epochs = 240, 240
    agree(method.loss(data, output(z), output(teacher)), expected, [z])
    method.epoch = 5  # dkd's warm-up
    close(method.loss(data, output(z), output(teacher))["nckd"], 5 / 20 * expected["nckd"])


@pytest.mark.parametrize("option", [{"base": "crd"}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^lskd.*{next(iter(option.values()))}"):
        registry.create("lskd", option)

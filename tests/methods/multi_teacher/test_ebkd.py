"""ebkd weighs teachers by entropy, as the code of CA-MKD does."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    output,
    probabilities,
)

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_ebkd_agrees_with_the_ca_mkd_code_in_value_and_gradient() -> None:
    golden = goldens.load("ebkd")
    goldens.require(golden["logits_s"])
    data, student = goldens.batch(golden["target"]), goldens.output(golden["logits_s"])
    terms = registry.create("ebkd").loss(data, student, goldens.teachers_of(golden, 3))
    goldens.close(terms["ce"], golden["loss_ce"])
    goldens.close(terms["kd"], golden["loss_kd"])
    goldens.close(sum(terms.values()), golden["loss_total"])
    goldens.gradients_agree(sum(terms.values()), {"logits_s": golden["logits_s"]}, {}, golden)


@pytest.mark.equation
@pytest.mark.parametrize(("kd_scale", "whole"), [("official", 2 / 3), ("unit", 1.0)])
def test_ebkd_weighs_each_sample_by_the_share_of_entropy(kd_scale: str, whole: float) -> None:
    z, teachers, data = logits(), [output() for _ in range(3)], batch()
    kd = torch.zeros(())
    for i in range(BATCH):
        entropies = [-sum(p * torch.log(p) for p in probabilities(teacher.logits[i].detach())) for teacher in teachers]
        for entropy, teacher in zip(entropies, teachers, strict=True):
            weight = (1 - entropy / sum(entropies)) / 2 * whole
            kd = kd + weight * kl(z[i], teacher.logits[i], 4.0) / BATCH
    expected = {"ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)), "kd": kd}
    agree(registry.create("ebkd", {"kd_scale": kd_scale}).loss(data, output(z), teachers), expected, [z])


def test_ebkd_survives_probabilities_that_underflow_and_teachers_without_any_entropy() -> None:
    z, sure = logits(), torch.zeros(BATCH, CLASSES)
    sure[:, 0] = 4000.0
    for teachers in ([output(sure)] * 2, [output(sure), output(logits())]):
        terms = registry.create("ebkd").loss(batch(), output(z), teachers)
        assert torch.autograd.grad(terms["kd"], z)[0].isfinite().all()
    alike, average = (
        registry.create(name, settings).loss(batch(), output(z), [output(sure)] * 2)
        for name, settings in (("ebkd", {"kd_scale": "unit"}), ("aver_mkd", {}))
    )
    agree(alike, average, [z])


def test_a_kd_scale_that_is_none_is_refused() -> None:
    registry.create("ebkd", {"kd_scale": "unit"})
    with pytest.raises(KDBenchError, match="ebkd's kd_scale is 'half'"):
        registry.create("ebkd", {"kd_scale": "half"})

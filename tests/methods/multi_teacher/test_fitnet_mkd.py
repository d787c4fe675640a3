"""fitnet_mkd is the average of the teachers' divergences and of their hints."""

from __future__ import annotations

import pytest
from support.hints import hinted
from support.loops import (
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    mean,
)

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_fitnet_mkd_is_labels_the_mean_divergence_and_the_mean_hint() -> None:
    method, student, teachers, losses = hinted("fitnet_mkd")
    data, z = batch(), student.logits
    expected = {
        "ce": labels(z, data),
        "kd": mean(imitation(z, teacher.logits, 4.0) for teacher in teachers),
        "feature": 100 * mean(losses),
    }
    agree(method.loss(data, student, teachers), expected, [z, student.features[1], *method.parameters()])


def test_fitnet_mkd_is_the_average_and_the_mean_of_the_teachers_hints() -> None:
    method, student, teachers, losses = hinted("fitnet_mkd")
    data = batch()
    average = registry.create("aver_mkd").loss(data, student, teachers)
    terms = method.loss(data, student, teachers)
    agree(
        terms, {**average, "feature": 100 * mean(losses)}, [student.logits, student.features[1], *method.parameters()]
    )


def test_hints_start_in_the_second_epoch() -> None:
    method, student, teachers, _ = hinted("fitnet_mkd")
    method.epoch = 1
    assert method.loss(batch(), student, teachers).keys() == {"ce", "kd"}


def test_fitnet_mkd_has_no_kd_scale_which_its_weights_that_sum_to_one_would_not_heed() -> None:
    with pytest.raises(KDBenchError, match="kd_scale"):
        registry.create("fitnet_mkd", {"kd_scale": "unit"})

"""vid is the negative log-likelihood of a Gaussian whose variances are trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    convolved,
    float64,  # noqa: F401  (a fixture for every test here)
    halved,
    labels,
    maps,
    mean,
    network,
    output,
)

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_vid_is_the_gaussians_negative_log_likelihood_with_a_trained_variance_for_each_channel() -> None:
    method = registry.create("vid")
    ours, theirs = ((3, 4, 4), (2, 4, 4), (4, 2, 2)), ((5, 4, 4), (3, 2, 2), (2, 4, 4))
    method.build(network(*ours), network(*theirs))
    for stage in method.stages:
        stage.log_scale.data.add_(torch.randn_like(stage.log_scale))
    student, teacher = output(features=maps(*ours, trained=True)), output(features=maps(*theirs))
    s, t = student.features, teacher.features
    information = torch.zeros(())
    for stage, x, y in zip(method.stages, (s[0], halved(s[1]), s[2]), (t[0], t[1], halved(t[2])), strict=True):
        first, _, second, _, third = stage.regressor
        hidden = convolved(second, torch.relu(convolved(first, x)))
        predicted = convolved(third, torch.relu(hidden))
        costs = []
        for c in range(y.shape[1]):
            variance = torch.log(1 + torch.exp(stage.log_scale[c])) + 1e-5
            for b in range(BATCH):
                for error in (predicted[b, c] - y[b, c]).flatten():
                    costs.append((error**2 / variance + torch.log(variance)) / 2)
        information = information + mean(costs)
    expected = {"ce": labels(student.logits, batch()), "information": information}
    agree(method.loss(batch(), student, teacher), expected, [student.logits, *s, *method.parameters()])


def test_vids_variances_begin_at_5_and_are_trained() -> None:
    method = registry.create("vid")
    method.build(network((3, 4, 4)), network((5, 4, 4)))
    (stage,) = method.stages
    close(F.softplus(stage.log_scale) + 1e-5, torch.full((5,), 5.0))
    assert {name.removeprefix("stages.0.") for name, _ in method.named_parameters()} == {
        "log_scale", "regressor.0.weight", "regressor.2.weight", "regressor.4.weight"
    }  # fmt: skip


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^vid.*0.0"):
        registry.create("vid", {"initial_variance": 0.0})

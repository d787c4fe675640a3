"""wsld weighs soft labels by how much worse the student is, as plain loops have it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    probabilities,
    total,
)

from kdbench import registry


@pytest.mark.equation
@pytest.mark.parametrize("options", [{}, {"alpha": 2.5, "temperature": 2.0}])
def test_wsld_weighs_soft_labels_by_how_much_worse_the_student_is(options: dict[str, float]) -> None:
    alpha, temperature = {"alpha": 2.25, "temperature": 4.0, **options}.values()
    z, teacher, data = logits(), logits().detach(), batch()
    soft = []
    for b in range(BATCH):
        y = int(data.targets[b])
        ours, theirs = cross_entropy(z[b], y).detach(), cross_entropy(teacher[b], y)
        weight = 1 - torch.exp(-ours / (theirs + 1e-7))  # a constant
        p, q = probabilities(teacher[b], temperature), probabilities(z[b], temperature)
        soft.append(-weight * sum(t * torch.log(s) for t, s in zip(p, q, strict=True)))
    expected = {"ce": labels(z, data), "soft": alpha * temperature**2 * mean(soft)}
    agree(registry.create("wsld", options).loss(data, output(z), output(teacher)), expected, [z])


def test_wsld_stays_finite_where_the_teacher_makes_no_error() -> None:
    z, teacher = logits(), 1000 * F.one_hot(batch().targets, CLASSES).double()
    terms = registry.create("wsld").loss(batch(), output(z), output(teacher))
    assert torch.autograd.grad(total(terms), z)[0].isfinite().all()

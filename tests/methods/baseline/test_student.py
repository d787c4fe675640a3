"""student is the cross-entropy of smoothed labels."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    BATCH,
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import registry


@pytest.mark.equation
def test_student_is_cross_entropy_with_smoothed_labels() -> None:
    z, data = logits(), batch()

    def smoothed(i: int) -> Tensor:
        log_p = [torch.log(p) for p in probabilities(z[i])]
        return -0.9 * log_p[int(data.targets[i])] - 0.1 * mean(log_p)

    terms = registry.create("student", {"label_smoothing": 0.1}).loss(data, output(z), None)
    agree(terms, {"ce": mean(smoothed(i) for i in range(BATCH))}, [z])

"""word_kd agrees with the word-level distillation of CKD's code, in value and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import goldens

from kdbench import registry


@pytest.mark.equation
def test_word_kd_agrees_with_the_field_code_in_value_and_in_gradient_by_its_equation() -> None:
    golden = goldens.load("word_kd")
    real = golden["target"] != golden["pad"]  # the vectors hold padding, which our rows do not
    tokens = golden["num_tokens"]
    student = golden["logits_s"][real].requires_grad_()
    teacher, targets = golden["logits_t"][real], golden["target"][real]
    assert len(targets) == tokens
    method = registry.create("word_kd", {"kd_weight": 0.5, "label_smoothing": 0.0})
    terms = method.loss(goldens.batch(targets), goldens.output(student), goldens.output(teacher))
    goldens.close(tokens * terms["kd"] / 0.5, golden["loss_kd"])
    goldens.close(tokens * sum(terms.values()), golden["loss_half"])
    found = torch.autograd.grad(sum(terms.values()), student)[0]
    ours, theirs = student.detach().softmax(1), teacher.softmax(1)
    wanted = (0.5 * (ours - F.one_hot(targets, 9)) + 0.5 * (ours - theirs)) / tokens
    goldens.close(found, wanted)


@pytest.mark.equation
def test_smoothed_labels_and_temperature_by_their_equations() -> None:
    draws = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 7, generator=draws, dtype=torch.float64) for _ in range(2))
    targets = torch.tensor([1, 2, 6, 2, 0])
    method = registry.create("word_kd", {"kd_weight": 0.3, "temperature": 2.0, "label_smoothing": 0.1})
    terms = method.loss(goldens.batch(targets), goldens.output(student), goldens.output(teacher))
    nll = kd = 0.0
    for row in range(5):
        log_p = student[row].log_softmax(0)
        nll -= (0.9 * log_p[targets[row]] + 0.1 * log_p.mean()).item() / 5
        cold, warm = (student[row] / 2).log_softmax(0), (teacher[row] / 2).log_softmax(0)
        kd += 4 * sum((warm[k].exp() * (warm[k] - cold[k])).item() for k in range(7)) / 5
    assert terms["ce"].item() == pytest.approx(0.7 * nll)
    assert terms["kd"].item() == pytest.approx(0.3 * kd)

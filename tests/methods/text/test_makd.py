"""makd against float64 loops over layers, matrices and tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.texts import LENGTHS, batch, built, given, holds_against_padding, network
from torch import Tensor

from kdbench import NotApplicable
from kdbench.losses import kl

SHAPE: dict[str, Any] = {"width": 12, "rank": 4, "start": "teacher"}


def method(phase: str, **settings: Any) -> Any:
    return built("makd", settings, network(**SHAPE), network(12), phase)


def real(x: Tensor) -> Tensor:
    """The real tokens' rows of `[B, L, D]`."""
    return torch.cat([x[b, :length] for b, length in enumerate(LENGTHS)])


@pytest.mark.equation
@pytest.mark.parametrize("normalise", [True, False])
def test_the_phase_of_matching_agrees_with_loops(normalise: bool) -> None:
    ours, theirs = given(1, 12, grad=True), given(2, 12)
    terms = method("match", normalise=normalise).loss(batch(), ours, theirs)
    attention, hidden, matrices = [], [], []
    for layer in range(2):
        rows = []
        for b, n in enumerate(LENGTHS):
            p, q = (side.given_scores[layer][b, :, :n, :n].softmax(-1) for side in (theirs, ours))
            rows.append((p * (p / q).log()).sum(-1).flatten())
        attention.append(torch.cat(rows).mean())
        hidden.append((real(ours.hidden[layer + 1]) - real(theirs.hidden[layer + 1])).square().mean())
        for own, other in zip(ours.given_matrices[layer], theirs.given_matrices[layer], strict=True):
            scale = real(other).var(correction=0) if normalise else 1.0
            matrices.append((real(own) - real(other)).square().mean() / scale)
    for name, parts in (("attention", attention), ("hidden", hidden), ("matrices", matrices)):
        wanted = torch.stack(parts).mean()
        torch.testing.assert_close(terms[name], wanted, rtol=1e-9, atol=1e-12)
        sources = [*ours.given_scores, *ours.hidden[1:], *(x for each in ours.given_matrices for x in each)]
        found, known = (
            torch.autograd.grad(x, sources, allow_unused=True, retain_graph=True) for x in (terms[name], wanted)
        )
        for one, two in zip(found, known, strict=True):
            assert (one is None) == (two is None)
            if one is not None and two is not None:
                torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.equation
def test_the_phase_of_the_task_is_labels_and_soft_answers() -> None:
    ours, theirs = given(1, 12), given(2, 12)
    terms = method("task", kd_weight=0.5, temperature=3.0).loss(batch(), ours, theirs)
    torch.testing.assert_close(terms["kd"], 0.5 * kl(ours.logits, theirs.logits, 3.0))
    torch.testing.assert_close(terms["ce"], torch.nn.functional.cross_entropy(ours.logits, batch().targets))


@pytest.mark.parametrize("phase", ["match", "task"])
def test_padding_enters_no_term(phase: str) -> None:
    holds_against_padding(lambda: method(phase))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": 0}, "is its teacher's factorisation, but 'net12x2' is none"),
        ({"start": "fresh"}, "is its teacher's factorisation"),
        ({"layers": 1}, "has its teacher's layers and widths, but 'net12x1' has others"),
        ({"inner": 5}, "has its teacher's layers and widths"),
        ({"heads": 3}, "has 3 heads"),
        ({"vocabulary": "w"}, "read other tokens"),
    ],
)
def test_a_student_that_is_no_factorised_teacher_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        built("makd", {}, network(**{**SHAPE, **changes}), network(12))

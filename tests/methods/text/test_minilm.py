"""minilm, both versions, against float64 loops over sentences, heads and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.texts import HEADS, LENGTHS, Given, batch, built, given, holds_against_padding, network
from torch import Tensor

from kdbench import NotApplicable
from kdbench.losses import relation_scores

RELATIONS = 6


def relations(states: Tensor, heads: int) -> list[Tensor]:
    """Of one sentence's states `[n, D]`, head by head: rows of probabilities `[n, n]`."""
    size = states.shape[1] // heads
    found = []
    for head in range(heads):
        part = states[:, head * size : (head + 1) * size]
        rows = [torch.stack([part[i] @ part[j] / size**0.5 for j in range(len(part))]) for i in range(len(part))]
        found.append(torch.stack([row.exp() / row.exp().sum() for row in rows]))
    return found


def divergence(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """KL of each row, mean over heads and tokens."""
    rows = [(p * (p / q).log()).sum() for t, s in zip(teacher, student, strict=True) for p, q in zip(t, s, strict=True)]
    return torch.stack(rows).mean()


def of_sentence(output: Given, name: str, sentence: int) -> Tensor:
    """The last layer's states of a sentence, heads side by side, `[n, D]`."""
    parts = getattr(output, name)[-1][sentence]  # [H, L, d]
    return torch.cat([parts[head, : LENGTHS[sentence]] for head in range(HEADS)], 1)


@pytest.mark.equation
def test_version_2_agrees_with_loops_in_value_and_gradient() -> None:
    ours, theirs = given(1, 12, grad=True), given(2, 24)
    method = built("minilm", {"relation_heads": RELATIONS, "relation_weight": 1.5}, network(12), network(24))
    term = method.loss(batch(), ours, theirs)["relations"]
    means = []
    for name in ("queries", "keys", "values"):
        for sentence in range(len(LENGTHS)):
            both = (relations(of_sentence(side, name, sentence), RELATIONS) for side in (theirs, ours))
            means.append(divergence(*both))
    agree(term, 1.5 * torch.stack(means).mean(), ours)


@pytest.mark.equation
def test_version_1_agrees_with_loops_in_value_and_gradient() -> None:
    ours, theirs = given(1, 12, grad=True), given(2, 24)
    method = built("minilm", {"version": 1}, network(12), network(24))
    term = method.loss(batch(), ours, theirs)["relations"]
    attention, values = [], []
    for sentence, length in enumerate(LENGTHS):
        both = []
        for side in (theirs, ours):
            scores = side.given_scores[-1][sentence, :, :length, :length]
            both.append([head.exp() / head.exp().sum(1, keepdim=True) for head in scores])
        attention.append(divergence(*both))
        both = [relations(of_sentence(side, "values", sentence), HEADS) for side in (theirs, ours)]
        values.append(divergence(*both))
    agree(term, torch.stack(attention).mean() + torch.stack(values).mean(), ours)


def agree(term: Tensor, expected: Tensor, ours: Given) -> None:
    torch.testing.assert_close(term, expected, rtol=1e-9, atol=1e-12)
    sources = [ours.queries[-1], ours.keys[-1], ours.values[-1], ours.given_scores[-1]]
    found, wanted = (torch.autograd.grad(x, sources, allow_unused=True, retain_graph=True) for x in (term, expected))
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("version", [1, 2])
def test_padding_enters_no_term(version: int) -> None:
    settings = {"version": version, "relation_heads": RELATIONS}
    holds_against_padding(lambda: built("minilm", settings, network(12), network(24)), 12, 24)


def test_relations_are_of_tokens_not_of_pieces_of_them() -> None:
    states = torch.randn(1, 5, 24, dtype=torch.float64)
    swapped = states[:, [1, 0, 2, 3, 4]]
    before, after = relation_scores(states, RELATIONS), relation_scores(swapped, RELATIONS)
    assert before.shape == (1, RELATIONS, 5, 5)
    torch.testing.assert_close(after, before[:, :, [1, 0, 2, 3, 4]][..., [1, 0, 2, 3, 4]])


def test_heads_may_differ_in_version_2_only() -> None:
    other: dict[str, Any] = {"student": network(12, heads=3), "teacher": network(24, heads=4)}
    built("minilm", {"relation_heads": RELATIONS}, **other)
    with pytest.raises(NotApplicable, match="has 3 heads and 'net24x2' 4"):
        built("minilm", {"version": 1}, **other)
    with pytest.raises(NotApplicable, match="relation_heads are 5, which do not divide the width 12"):
        built("minilm", {"relation_heads": 5}, **other)


def test_the_teachers_layer_can_be_chosen() -> None:
    method: Any = built("minilm", {"teacher_layer": 21}, network(12), network(24, 24))
    assert method.met == 21
    with pytest.raises(NotApplicable, match="teacher_layer is 3, but 'net24x2' has 2"):
        built("minilm", {"teacher_layer": 3}, network(12), network(24))

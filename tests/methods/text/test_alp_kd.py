"""alp_kd against float64 loops over samples and layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.texts import LENGTHS, Given, batch, built, given, holds_against_padding, network
from torch import Tensor

from kdbench import KDBenchError, NotApplicable


def distance(own: Tensor, theirs: list[Tensor], scale: float, detach: bool = False) -> Tensor:
    """Mean squared difference of a vector from the mixture of these."""
    scores = torch.stack([own @ other / scale for other in theirs])
    weights = scores.exp() / scores.exp().sum()
    weights = weights.detach() if detach else weights
    mixture = sum((w * other for w, other in zip(weights, theirs, strict=True)), torch.zeros_like(own))
    return (own - mixture).square().mean()


def expected(ours: Given, theirs: Given, groups: list[list[int]], places: list[tuple[int, int]], **how: Any) -> Tensor:
    """Mean over layers and places (sample, token)."""
    found = [
        distance(ours.hidden[layer][b, i], [theirs.hidden[met][b, i] for met in group], **how)
        for layer, group in enumerate(groups, 1)
        for b, i in places
    ]
    return torch.stack(found).mean()


CLS = [(b, 0) for b in range(len(LENGTHS))]
EVERY = [(b, i) for b, length in enumerate(LENGTHS) for i in range(length)]


@pytest.mark.equation
@pytest.mark.parametrize(
    ("settings", "groups", "places", "how"),
    [
        ({}, [[1, 2, 3, 4]] * 2, CLS, {"scale": 12**0.5}),
        ({"scale": "none"}, [[1, 2, 3, 4]] * 2, CLS, {"scale": 1.0}),
        ({"buckets": "disjoint"}, [[1, 2], [3, 4]], CLS, {"scale": 12**0.5}),
        ({"tokens": "all"}, [[1, 2, 3, 4]] * 2, EVERY, {"scale": 12**0.5}),
        ({"detach_weights": True}, [[1, 2, 3, 4]] * 2, CLS, {"scale": 12**0.5, "detach": True}),
    ],
    ids=["alp", "plain product", "alp-no", "all tokens", "detached"],
)
def test_it_agrees_with_loops_in_value_and_gradient(
    settings: dict[str, Any], groups: list[list[int]], places: list[tuple[int, int]], how: dict[str, Any]
) -> None:
    ours, theirs = given(1, 12, 2, grad=True), given(2, 12, 4)
    terms = built("alp_kd", {"weight": 0.3, **settings}, network(12, 2), network(12, 4)).loss(batch(), ours, theirs)
    wanted = 0.3 * expected(ours, theirs, groups, places, **how)
    torch.testing.assert_close(terms["layers"], wanted, rtol=1e-9, atol=1e-12)
    found, known = (torch.autograd.grad(x, ours.hidden[1:], retain_graph=True) for x in (terms["layers"], wanted))
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_embeddings_take_no_part() -> None:
    ours, theirs = given(1, 12, grad=True), given(2, 12)
    term = built("alp_kd", {}, network(), network()).loss(batch(), ours, theirs)["layers"]
    assert torch.autograd.grad(term, ours.hidden[0], allow_unused=True) == (None,)


@pytest.mark.parametrize("tokens", ["cls", "all"])
@pytest.mark.parametrize("teacher", [12, 24])
def test_padding_enters_no_term(tokens: str, teacher: int) -> None:
    holds_against_padding(lambda: built("alp_kd", {"tokens": tokens}, network(12), network(teacher)), 12, teacher)


def test_cls_needs_no_common_tokens_and_every_token_does() -> None:
    built("alp_kd", {}, network(vocabulary="w"), network())
    with pytest.raises(NotApplicable, match=r"alp_kd\(tokens=all\) compares tokens"):
        built("alp_kd", {"tokens": "all"}, network(vocabulary="w"), network())


def test_empty_buckets_and_unknown_choices_are_refused() -> None:
    with pytest.raises(NotApplicable, match="leaves buckets empty"):
        built("alp_kd", {"buckets": "disjoint"}, network(12, 3), network(12, 2))
    with pytest.raises(KDBenchError, match="alp_kd's scale is 'd': give 'sqrt_d' or 'none'"):
        built("alp_kd", {"scale": "d"}, network(), network())

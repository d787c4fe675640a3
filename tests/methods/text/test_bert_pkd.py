"""bert_pkd agrees with the authors' code; its map of layers is the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.texts import Given, batch, built, distilled, given, holds_against_padding, network

from kdbench import Batch, NotApplicable


def layered(cls: torch.Tensor, logits: torch.Tensor, first: int = 1) -> Given:
    """An output whose layers from `first` on have these [CLS] vectors `[B, n, D]`."""
    blank = torch.zeros_like(cls[:, :1])
    return Given(hidden=[blank] * first + [cls[:, k : k + 1] for k in range(cls.shape[1])] + [blank], logits=logits)


@pytest.mark.equation
def test_it_agrees_with_the_authors_code() -> None:
    golden = goldens.load("bert_pkd")
    goldens.require(golden["cls_s"], golden["logits_s"])
    method = built("bert_pkd", {"layers": "last", "class_mean": True}, network(16, 6), network(16, 12))
    ours = layered(golden["cls_s"], golden["logits_s"])
    theirs = layered(golden["cls_t"], golden["logits_t"], first=7)  # layers 7..11 of 12
    seen = Batch(torch.zeros(4, 3, 5), golden["target"], torch.arange(4))
    terms = method.loss(seen, ours, theirs)
    goldens.close(terms["ce"], 0.3 * golden["loss_ce"])
    goldens.close(terms["kd"] + terms["ce"], golden["loss_total_dl"])
    goldens.close(terms["patience"], 500 * golden["loss_pt"])
    inputs = {"cls_s": golden["cls_s"], "logits_s": golden["logits_s"]}
    goldens.gradients_agree(sum(terms.values()), inputs, {}, golden)


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "met"),
    [
        ("skip", 6, 12, [2, 4, 6, 8, 10]),
        ("last", 6, 12, [7, 8, 9, 10, 11]),
        ("skip", 3, 12, [4, 8]),
        ("last", 2, 6, [5]),
    ],
)
def test_student_layers_meet_the_papers(layers: str, student: int, teacher: int, met: list[int]) -> None:
    method: Any = built("bert_pkd", {"layers": layers}, network(12, student), network(12, teacher))
    assert method.met == met
    ours, theirs = given(1, 12, student), given(2, 12, teacher)
    theirs.hidden = [torch.full_like(h, float(k)) for k, h in enumerate(theirs.hidden)]
    ours.hidden = [torch.full_like(h, float(([0, *met, 0])[k])) for k, h in enumerate(ours.hidden)]
    assert method.loss(batch(), ours, theirs)["patience"] < 1e-12


def test_padding_enters_no_term() -> None:
    holds_against_padding(lambda: built("bert_pkd", {}, network(12), network(24)), 12, 24)


def test_maps_that_do_not_exist_are_refused() -> None:
    with pytest.raises(NotApplicable, match="4 does not divide 6"):
        built("bert_pkd", {}, network(12, 4), network(12, 6))
    with pytest.raises(NotApplicable, match="has 2 teacher layers for the 3"):
        built("bert_pkd", {"layers": "last"}, network(12, 3), network(12, 2))
    with pytest.raises(NotApplicable, match="reads all layers but the last"):
        built("bert_pkd", {}, network(12, 1), network(12, 2))


def test_another_width_is_fitted_and_trained() -> None:
    method = built("bert_pkd", {}, network(12), network(24))
    terms = method.loss(batch(), given(1, 12), given(2, 24))
    distilled(terms).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())

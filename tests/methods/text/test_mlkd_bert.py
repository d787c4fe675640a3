"""mlkd_bert agrees with the authors' code in both phases, and with itself whatever the padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.texts import Given, batch, built, given, holds_against_padding, network

from kdbench import Batch, NotApplicable

WIDE = {"width": 36}


def method(phase: str, **settings: Any) -> Any:
    return built("mlkd_bert", settings, network(24), network(**WIDE), phase)


@pytest.mark.equation
def test_the_phase_of_tokens_agrees_with_the_authors_code() -> None:
    golden = goldens.load("mlkd_bert_stage1")
    goldens.require(*(golden[name] for name in golden if name.split("_")[0] in ("wordemb", "attnout", "hidden")))
    ours, theirs = (
        Given(
            words=golden[f"wordemb_{side}"],
            contexts=[golden[f"attnout_{side}_{k}"] for k in range(2)],
            hidden=[golden[f"hidden_{side}_{k}"] for k in range(3)],
            mask=torch.arange(7) < torch.tensor([7, 5, 4])[:, None],
        )
        for side in "st"
    )
    tokens = method("tokens", pad_positions=True)
    for k, fit in enumerate(tokens.fits):
        goldens.load_parameters(fit, golden, f"fit_{k}.")
    terms = tokens.loss(batch(), ours, theirs)
    for name, expected in (("embedding", "emb"), ("attention", "mha"), ("hidden", "ffn")):
        goldens.close(terms[name], golden[f"loss_{expected}"])
    loss = sum(terms.values())
    goldens.close(loss, golden["loss"])
    inputs = {"wordemb_s": ours.words, "attnout_s_0": ours.contexts[0], "hidden_s_0": ours.hidden[0]}
    goldens.gradients_agree(loss, inputs, {}, golden)


@pytest.mark.equation
def test_the_phase_of_samples_agrees_with_the_authors_code() -> None:
    golden = goldens.load("mlkd_bert_stage2")
    goldens.require(golden["cls_s"], golden["logits_s"])
    ours, theirs = (Given(hidden=[golden[f"cls_{s}"][:, None]], logits=golden[f"logits_{s}"]) for s in "st")
    samples = method("samples", class_mean=True)
    goldens.load_parameters(samples.fit, golden, "fit.")
    seen = Batch(torch.zeros(6, 3, 7), golden["target"], torch.arange(6))
    terms = samples.loss(seen, ours, theirs)
    for name, expected in (("similarity", "ss"), ("contrast", "sc"), ("kd", "kd")):
        goldens.close(terms[name], golden[f"loss_{expected}"])
    loss = sum(terms.values())
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"cls_s": golden["cls_s"], "logits_s": golden["logits_s"]}, {}, golden)


@pytest.mark.parametrize("phase", ["tokens", "samples"])
def test_padding_enters_no_term(phase: str) -> None:
    holds_against_padding(lambda: method(phase), 24, 36)


def test_the_authors_form_depends_on_the_padding() -> None:
    with pytest.raises(AssertionError):
        holds_against_padding(lambda: method("tokens", pad_positions=True), 24, 36)


def test_the_number_of_heads_is_free_and_the_splits_must_divide_both_widths() -> None:
    built("mlkd_bert", {}, network(24, heads=3), network(36, heads=12))
    with pytest.raises(NotApplicable, match="splits are 12, which do not divide the width 20 of network 'net20x2'"):
        built("mlkd_bert", {}, network(20), network(36))


def test_other_tokens_and_absent_words_are_refused() -> None:
    with pytest.raises(NotApplicable, match="read other tokens"):
        built("mlkd_bert", {}, network(24, vocabulary="w"), network(36))
    with pytest.raises(NotApplicable, match="which 'net24x2' has not"):
        built("mlkd_bert", {}, network(24, has_words=False), network(36))


def test_a_regression_has_no_contrast_and_imitates_the_teachers_number() -> None:
    regression = built("mlkd_bert", {}, network(24, classes=1), network(36, classes=1), "samples")
    ours, theirs = given(1, 24, classes=1), given(2, 36, classes=1)
    terms = regression.loss(batch(1), ours, theirs)
    assert terms.keys() == {"similarity", "kd"}
    torch.testing.assert_close(terms["kd"], (ours.logits - theirs.logits).square().mean())


def test_phases_train_their_own_projections() -> None:
    first, second = method("tokens").phases()
    assert (first.modules, second.modules) == (("fits.",), ("fit.",))
    assert first.share + second.share == 1

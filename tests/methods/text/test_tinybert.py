"""tinybert agrees with the authors' code in its own form, and counts real tokens and classes as the paper does else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.texts import Given, batch, built, given, holds_against_padding, network

from kdbench import NotApplicable
from kdbench.losses import answer_cross_entropy, answer_kl


def method(phase: str, student: int = 12, teacher: int = 24, **settings: Any) -> Any:
    return built("tinybert", settings, network(student), network(teacher), phase)


@pytest.mark.equation
def test_it_agrees_with_the_authors_code() -> None:
    golden = goldens.load("tinybert")
    goldens.require(golden["att_s"], golden["hidden_s"], golden["logits_s"])
    mask = golden["pad_bias"][:, 0, 0] > -1
    ours, theirs = (
        Given(
            given_scores=[golden[f"att_{side}"]],
            hidden=[torch.zeros_like(golden[f"hidden_{side}"]), golden[f"hidden_{side}"]],
            logits=golden[f"logits_{side}"],
            mask=mask,
        )
        for side in "st"
    )
    tiny = built("tinybert", {"pad_positions": True, "class_mean": True}, network(8, 1), network(12, 1), "intermediate")
    goldens.load_parameters(tiny.fit, golden, "fit_dense.")
    terms = tiny.loss(batch(), ours, theirs)
    bias = tiny.fit.bias.square().mean()  # of the embeddings, which are zero here: the vectors are of one layer
    goldens.close(terms["attention"], golden["loss_att"])
    goldens.close(terms["hidden"] - bias, golden["loss_hid"], 1e-12)
    tiny.phase = "prediction"
    prediction = tiny.loss(batch(), ours, theirs)["prediction"]
    goldens.close(prediction, golden["loss_pred"])
    loss = terms["attention"] + terms["hidden"] + prediction
    goldens.close(loss - bias, golden["loss"], 1e-12)
    inputs = {"att_s": golden["att_s"], "hidden_s": golden["hidden_s"], "logits_s": golden["logits_s"]}
    goldens.gradients_agree(loss, inputs, {}, golden)


@pytest.mark.parametrize("phase", ["intermediate", "prediction"])
def test_padding_enters_no_term(phase: str) -> None:
    holds_against_padding(lambda: method(phase), 12, 24)


@pytest.mark.equation
def test_scores_count_over_pairs_of_real_tokens_of_each_head() -> None:
    ours, theirs = given(1, 12, grad=True), given(2, 12)
    term = method("intermediate", 12, 12).loss(batch(), ours, theirs)["attention"]
    expected = torch.zeros((), dtype=torch.float64)
    for own, other in zip(ours.given_scores, theirs.given_scores, strict=True):
        parts = [(own[b, :, :n, :n] - other[b, :, :n, :n]).flatten() for b, n in enumerate((3, 8))]
        expected = expected + torch.cat(parts).square().mean()
    torch.testing.assert_close(term, expected)
    for own in ours.given_scores:
        found = torch.autograd.grad(term, own, retain_graph=True)[0]
        torch.testing.assert_close(found, torch.autograd.grad(expected, own, retain_graph=True)[0])


def test_soft_cross_entropy_sums_over_classes_and_is_a_mean_over_examples() -> None:
    for examples in (1, 2):
        zeros = torch.zeros(examples, 3)
        torch.testing.assert_close(answer_cross_entropy(zeros, zeros), torch.tensor(3.0).log())
        assert answer_kl(zeros, zeros) == 0


def test_a_regression_is_distilled_from_the_teacher_and_not_from_labels() -> None:
    tiny = built("tinybert", {}, network(classes=1), network(classes=1), "prediction")
    answers = Given(logits=torch.tensor([[2.0], [4.0]]))
    for gold in ([5.0, 0.0], [1.0, 3.0]):
        seen = batch(1)
        seen.targets.copy_(torch.tensor(gold))
        assert tiny.loss(seen, answers, answers)["prediction"] == 0
        assert answers.supervised(seen)["labels.mse"] > 0


def test_other_head_counts_are_refused_and_not_broadcast() -> None:
    with pytest.raises(NotApplicable, match="has 1 heads and 'net12x2' 2"):
        built("tinybert", {}, network(12, heads=1), network(12))


def test_layers_meet_evenly_from_the_embeddings_on() -> None:
    tiny: Any = built("tinybert", {}, network(12, 6), network(12, 12))
    assert [0, *tiny.met] == [0, 2, 4, 6, 8, 10, 12]


def test_each_state_and_each_map_meets_the_one_of_its_number() -> None:
    tiny: Any = built("tinybert", {}, network(12, 6), network(12, 12), "intermediate")
    torch.nn.init.eye_(tiny.fit.weight)
    torch.nn.init.zeros_(tiny.fit.bias)
    ours, theirs = given(1, 12, 6), given(2, 12, 12)
    # 13 states from the embeddings on, 12 maps from the first layer's on, which is number 0
    theirs.hidden = [torch.full_like(h, float(k)) for k, h in enumerate(theirs.hidden)]
    theirs.given_scores = [torch.full_like(a, float(k)) for k, a in enumerate(theirs.given_scores)]
    ours.hidden = [torch.full_like(h, 2.0 * k) for k, h in enumerate(ours.hidden)]
    ours.given_scores = [torch.full_like(a, 2.0 * k + 1) for k, a in enumerate(ours.given_scores)]
    assert tiny.loss(batch(), ours, theirs) == {"hidden": 0, "attention": 0}
    with pytest.raises(NotApplicable, match="5 does not divide 12"):
        built("tinybert", {}, network(12, 5), network(12, 12))


def test_the_prediction_trains_no_projection() -> None:
    first, second = method("intermediate").phases()
    assert (first.modules, second.modules) == (None, ())
    assert first.share == pytest.approx(10 / 13)

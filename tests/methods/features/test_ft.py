"""ft learns the factors that a paraphraser makes of the teacher's last map: whole, or their attention alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    network,
    output,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, registry


def attention() -> tuple[Any, dict[str, Tensor]]:
    golden = goldens.load("ft")
    method = registry.create("ft", {"factor": "attention"})
    method.build(goldens.network([golden["feat_s"]]), goldens.network([golden["feat_t"]]))
    method.double()
    for name in ("encoder", "decoder"):
        goldens.load_parameters(getattr(method, name), golden, f"paraphraser.{name}.")
    goldens.load_parameters(method.translator, golden, "translator.encoder.")
    return method, golden


def ft(student: tuple[int, ...], teacher: tuple[int, ...], phase: str = "train", **settings: Any) -> Any:
    method = registry.create("ft", settings)
    method.build(network(student), network(teacher))
    method.phase = phase
    return method


def unit(factor: Tensor) -> Tensor:
    """All numbers of a sample's factor, of length 1."""
    return torch.stack([x.flatten() / torch.sqrt((x**2).sum()) for x in factor])


def leaky(convolutions: nn.Sequential, x: Tensor) -> Tensor:
    """The layers of the authors' translator: three convolutions, each with LeakyReLU(0.1) and no norm."""
    layers = [layer for layer in convolutions if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 3
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in convolutions)
    for layer in layers:
        x = nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
        x = torch.where(x > 0, x, 0.1 * x)
    return x


@pytest.mark.equation
def test_the_whole_factor_is_normalised_and_weighs_500() -> None:
    method = ft((3, 4, 4), (6, 4, 4))
    student, teacher = output(features=maps((3, 4, 4), trained=True)), output(features=maps((6, 4, 4)))
    ours, theirs = leaky(method.translator, student.features[-1]), leaky(method.encoder, teacher.features[-1])
    assert ours.shape[1] == theirs.shape[1] == 3
    expected = {"ce": labels(student.logits, batch()), "factor": 500 * (unit(ours) - unit(theirs)).abs().mean()}
    wanted = [student.logits, student.features[-1], *method.translator.parameters()]
    agree(method.loss(batch(), student, teacher), expected, wanted)


@pytest.mark.equation
def test_the_attention_of_the_factors_agrees_with_repdistiller_in_value_and_gradient() -> None:
    method, golden = attention()
    goldens.require(golden["feat_s"])
    method.phase = "train"
    terms = method.loss(
        goldens.batch(), goldens.output(features=[golden["feat_s"]]), goldens.output(features=[golden["feat_t"]])
    )
    goldens.close(terms["factor"] / 200, golden["loss"])
    goldens.gradients_agree(
        terms["factor"] / 200, {"feat_s": golden["feat_s"]}, {"translator.encoder.": method.translator}, golden
    )


def test_repdistillers_factors_and_reconstruction_agree_with_it() -> None:
    method, golden = attention()
    goldens.close(method.translator(golden["feat_s"]), golden["out_factor_s"])
    goldens.close(method.encoder(golden["feat_t"]), golden["out_factor_t"])
    method.phase = "init"
    terms = method.loss(
        goldens.batch(), goldens.output(features=[golden["feat_s"]]), goldens.output(features=[golden["feat_t"]])
    )
    goldens.close(terms["paraphrase"], golden["loss_rec"])


@pytest.mark.parametrize(("ours", "theirs"), [(8, 4), (4, 8)])
def test_of_unlike_sizes_the_factors_are_pooled_and_not_the_maps(ours: int, theirs: int) -> None:
    method = ft((3, ours, ours), (6, theirs, theirs))
    student, teacher = output(features=maps((3, ours, ours))), output(features=maps((6, theirs, theirs)))
    factors = [leaky(method.translator, student.features[-1]), leaky(method.encoder, teacher.features[-1])]
    pooled = [factor.reshape(len(factor), 3, 4, factor.shape[2] // 4, 4, -1).mean((3, 5)) for factor in factors]
    expected = 500 * (unit(pooled[0]) - unit(pooled[1])).abs().mean()
    close(method.loss(batch(), student, teacher)["factor"], expected)


@pytest.mark.parametrize("phase", ["init", "train"])
@pytest.mark.parametrize("factor", ["whole", "attention"])
def test_ft_learns_from_labels_in_both_phases(factor: str, phase: str) -> None:
    method = ft((3, 4, 4), (6, 4, 4), phase, factor=factor)
    z, data = logits(), batch()
    terms = method.loss(data, output(z, maps((3, 4, 4))), output(features=maps((6, 4, 4))))
    close(terms["ce"], labels(z, data))


@pytest.mark.parametrize(("ours", "theirs"), [((3, 1, 1), (6, 1, 1)), ((3, 4, 4), (6, 1, 1)), ((3, 1, 1), (6, 2, 2))])
def test_a_pair_whose_attention_is_always_the_same_is_refused_before_training(
    ours: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    with pytest.raises(NotApplicable, match=r"meet at 1 position, .*factor=whole compares the channels"):
        ft(ours, theirs, factor="attention")
    method = ft(ours, theirs)
    student = output(features=maps(ours, trained=True))
    term = method.loss(batch(), student, output(features=maps(theirs)))["factor"]
    (gradient,) = torch.autograd.grad(term, student.features[-1])
    assert term > 0
    assert gradient.abs().max() > 0


def test_one_number_is_no_factor_in_either_form() -> None:
    with pytest.raises(NotApplicable, match="1 position, with 1 factor channels; give a larger rate"):
        ft((3, 1, 1), (6, 1, 1), rate=0.1)


def test_a_weight_that_is_given_holds_in_either_form() -> None:
    assert registry.create("ft", {"weight": 7.0}).weight == 7
    assert registry.create("ft", {"weight": 7.0, "factor": "attention"}).weight == 7
    with pytest.raises(KDBenchError, match="ft's factor is 'half': give one of whole, attention"):
        registry.create("ft", {"factor": "half"})

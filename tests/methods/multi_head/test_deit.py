"""deit's second head learns the teacher, its first the labels, and both are deployed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    Fixed,
    agree,
    batch,
    close,
    cross_entropy,
    embedded,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    mean,
    network,
    output,
)
from torch import Tensor

from kdbench import KDBenchError, registry
from kdbench.method import answer_of


def deit(width: int = 3, classes: int = CLASSES, **options: Any) -> Any:
    method = registry.create("deit", options)
    method.build(network(embedding=width, classes=classes), network(classes=classes))
    return method


def hard(z: Tensor, teacher: Tensor) -> Tensor:
    return mean(cross_entropy(z[n], teacher[n].tolist().index(max(teacher[n].tolist()))) for n in range(len(z)))


@pytest.mark.equation
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_deit_agrees_with_the_authors_code_in_value_and_gradient(kind: str) -> None:
    golden = goldens.load("deit_timm")
    weights = {"hard": {}, "soft": {"alpha": 0.1, "temperature": 3.0}}[kind]
    method = deit(goldens.CLASSES, goldens.CLASSES, kind=kind, **weights)
    torch.nn.init.eye_(method.head.weight)  # the second head's logits are the vector's
    ours, second = golden["logits_s"], golden["logits_dist"]
    goldens.require(ours, second)
    terms = method.loss(
        goldens.batch(golden["target"]), output(ours, embedding=second), goldens.output(golden["logits_t"])
    )
    total = sum(terms.values())
    goldens.close(total, golden[f"loss_{kind}"])
    goldens.gradients_agree(total, {f"logits_s_{kind}": ours, f"logits_dist_{kind}": second}, {}, golden)


@pytest.mark.equation
@pytest.mark.parametrize("official", [True, False], ids=["code", "paper"])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_deit_is_the_papers_equation(kind: str, official: bool) -> None:
    method = deit(kind=kind, alpha=0.3, temperature=2.0, official_mean=official)
    student, teacher = embedded(3, trained=True), logits().detach()
    second = torch.stack([method.head.weight @ e + method.head.bias for e in student.embedding])
    classes = CLASSES if official else 1
    expected = {
        "ce": 0.7 * labels(student.logits, batch()),
        "distillation": 0.3 * (hard(second, teacher) if kind == "hard" else imitation(second, teacher, 2.0) / classes),
    }
    tensors = [student.logits, student.embedding, *method.parameters()]
    agree(method.loss(batch(), student, output(teacher)), expected, tensors)


@pytest.mark.equation
def test_deit_of_one_head_is_hard_label_distillation() -> None:
    method, z, teacher = deit(heads=1), logits(), logits().detach()
    expected = {"ce": 0.5 * labels(z, batch()), "distillation": 0.5 * hard(z, teacher)}
    agree(method.loss(batch(), output(z), output(teacher)), expected, [z])
    assert not list(method.parameters())
    student = Fixed(output(z))
    assert method.deploy(student) is student


def test_deits_heads_never_see_each_others_target() -> None:
    method, student = deit(), embedded(3, trained=True)
    terms = method.loss(batch(), student, output(logits().detach()))
    head = list(method.parameters())
    assert torch.autograd.grad(terms["ce"], head, allow_unused=True, retain_graph=True) == (None, None)
    assert torch.autograd.grad(terms["distillation"], student.logits, allow_unused=True) == (None,)


def test_deit_deploys_the_mean_of_both_heads_logits() -> None:
    method, student = deit(), embedded(3)
    torch.nn.init.normal_(method.head.weight)
    second = torch.stack([method.head.weight @ e + method.head.bias for e in student.embedding])
    deployed = method.deploy(Fixed(student))
    close(answer_of(deployed(torch.zeros(BATCH, 1))), (student.logits + second) / 2)
    assert set(deployed.state_dict()) == {"head.weight", "head.bias"}  # and so they are counted


def test_deits_head_starts_as_the_authors_heads_do() -> None:
    method = deit(width=200)
    assert 0.015 < method.head.weight.std() < 0.025
    assert not method.head.bias.any()


def test_deits_defaults_are_those_of_the_papers_hard_distillation() -> None:
    method = registry.create("deit")
    assert (method.kind, method.alpha, method.temperature, method.heads) == ("hard", 0.5, 1.0, 2)
    assert method.official_mean


def test_deit_under_autocast_is_float32() -> None:
    torch.set_default_dtype(torch.float32)
    method, student = deit(kind="soft"), embedded(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.loss(batch(), student, output(logits().detach()))
        deployed = method.deploy(Fixed(student))(torch.zeros(BATCH, 1))
    assert {term.dtype for term in terms.values()} | {deployed.dtype} == {torch.float32}


@pytest.mark.parametrize(("options", "said"), [({"kind": "warm"}, "'warm' and 2"), ({"heads": 3}, "'hard' and 3")])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(options: dict[str, Any], said: str) -> None:
    with pytest.raises(KDBenchError, match=f"^deit needs kind .* not {said}"):
        registry.create("deit", options)

"""timm_token is timm's token task: labels for the first head, the teacher for the second."""

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

from kdbench import KDBenchError, registry


def timm_token(width: int = 3, classes: int = CLASSES, **options: Any) -> Any:
    method = registry.create("timm_token", options)
    method.build(network(embedding=width, classes=classes), network(classes=classes))
    return method


@pytest.mark.equation
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_timm_token_agrees_with_timm_in_value_and_gradient(kind: str) -> None:
    golden = goldens.load("deit_timm")
    method = timm_token(goldens.CLASSES, goldens.CLASSES, kind=kind, task_weight=0.5, temperature=3.0)
    torch.nn.init.eye_(method.head.weight)  # the second head's logits are the vector's
    second = golden["logits_dist"]
    goldens.require(second)
    student = output(golden["logits_s"], embedding=second)
    total = sum(method.loss(goldens.batch(golden["target"]), student, goldens.output(golden["logits_t"])).values())
    goldens.close(total, golden[f"loss_timm_token_{kind}"])
    goldens.gradients_agree(total, {f"logits_dist_timm_token_{kind}": second}, {}, golden)


@pytest.mark.equation
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_timm_token_is_its_equation(kind: str) -> None:
    method = timm_token(kind=kind, task_weight=0.4, distill_weight=2.0, temperature=3.0)
    student, teacher = embedded(3, trained=True), logits().detach()
    second = torch.stack([method.head.weight @ e + method.head.bias for e in student.embedding])
    tops = [int(row.argmax()) for row in teacher]
    term = imitation(second, teacher, 3.0)
    if kind == "hard":
        term = mean(cross_entropy(second[n], tops[n]) for n in range(BATCH))
    expected = {"ce": 0.4 * labels(student.logits, batch()), "distillation": 2 * term}
    tensors = [student.logits, student.embedding, *method.parameters()]
    agree(method.loss(batch(), student, output(teacher)), expected, tensors)


def test_timm_tokens_class_head_sees_the_labels_alone() -> None:
    student = embedded(3, trained=True)
    term = timm_token().loss(batch(), student, output(logits().detach()))["distillation"]
    assert torch.autograd.grad(term, student.logits, allow_unused=True) == (None,)


def test_timm_token_deploys_the_mean_of_both_heads_logits() -> None:
    method, student = timm_token(), embedded(3)
    torch.nn.init.normal_(method.head.weight)
    second = torch.stack([method.head.weight @ e + method.head.bias for e in student.embedding])
    close(method.deploy(Fixed(student))(torch.zeros(BATCH, 1)), (student.logits + second) / 2)


def test_timm_tokens_defaults_are_timms() -> None:
    method = registry.create("timm_token")
    assert (method.kind, method.task_weight, method.distill_weight, method.temperature) == ("soft", 1.0, 1.0, 1.0)


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^timm_token's kind is 'warm'"):
        registry.create("timm_token", {"kind": "warm"})

"""srd is the authors' code: a projector, one norm for both embeddings, and the logarithm of a sum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    embedded,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    network,
)
from torch import Tensor

from kdbench import KDBenchError, Method, Output, registry


def golden_case(**options: Any) -> tuple[Any, dict[str, Tensor]]:
    golden = goldens.load("srd")
    method: Any = registry.create("srd", options)
    method.build(
        *(goldens.network([], embedding=golden[f"feat_{side}"]) for side in "st"),
    )
    method.double()
    goldens.load_parameters(method.embed, golden, "embed.")
    return method, golden


@pytest.mark.equation
@pytest.mark.parametrize(("form", "prefix"), [("logsum", ""), ("correlation", "corr_")])
def test_srd_agrees_with_the_authors_code_in_value_and_gradient(form: str, prefix: str) -> None:
    method, golden = golden_case(form=form, weight=1.0)
    student, teacher = (goldens.output(embedding=golden[f"feat_{side}"]) for side in "st")
    goldens.require(student.embedding)
    term = method.loss(goldens.batch(), student, teacher)["representation"]
    goldens.close(term, golden["loss_corr" if prefix else "loss"])
    inputs, modules = {f"{prefix}feat_s": student.embedding}, {f"{prefix}embed.": method.embed}
    goldens.gradients_agree(term, inputs, modules, golden, atol=1e-13)


@pytest.mark.equation
def test_srd_as_a_whole_agrees_with_the_authors_code_on_pooled_maps_and_logits() -> None:
    method, golden = golden_case()
    ours, theirs = (golden[f"map_{side}"] for side in "st")
    goldens.require(ours, golden["logits_s"])
    student, teacher = (
        goldens.output(golden[f"logits_{side}"], embedding=f.mean((2, 3))) for side, f in (("s", ours), ("t", theirs))
    )
    terms = method.loss(goldens.batch(), student, teacher)
    total = terms["representation"] + terms["kd"]
    goldens.close(total, golden["loss_total"])
    goldens.gradients_agree(total, {"map_s_total": ours, "logits_s_total": golden["logits_s"]}, {}, golden)


def centred(x: Tensor, eps: float) -> list[list[Tensor]]:
    """Each column of `[B, D]`, by its own mean and variance."""
    columns = []
    for column in x.unbind(1):
        rest = [value - sum(column) / len(column) for value in column]
        deviation = torch.sqrt(sum(value**2 for value in rest) / len(column) + eps)
        columns.append([value / deviation for value in rest])
    return columns


def by_loops(ours: Tensor, theirs: Tensor, form: str, exponent: float) -> Tensor:
    eps = 1e-4 if form == "logsum" else 1e-10
    columns = list(zip(centred(ours, eps), centred(theirs, eps), strict=True))
    if form == "logsum":
        return torch.log(sum(abs(s - t) ** exponent for pair in columns for s, t in zip(*pair, strict=True)))
    products = [sum(s * t for s, t in zip(*pair, strict=True)) / len(ours) for pair in columns]
    return torch.log(sum(abs(product - 1) ** exponent for product in products) + 1e-5)


@pytest.mark.equation
@pytest.mark.parametrize("form", ["logsum", "correlation"])
def test_srd_is_the_papers_equation(form: str) -> None:
    options = {"weight": 3.0, "kd_weight": 0.5, "temperature": 2.0, "exponent": 5.0, "ce_weight": 0.7, "form": form}
    method = registry.create("srd", options)
    method.build(network(embedding=3), network(embedding=4))
    student, teacher = embedded(3, trained=True), embedded(4)
    projected = torch.stack([method.embed.weight @ e + method.embed.bias for e in student.embedding])
    expected = {
        "ce": 0.7 * labels(student.logits, batch()),
        "representation": 3 * by_loops(projected, teacher.embedding, form, 5.0),
        "kd": 0.5 * imitation(student.logits, teacher.logits, 2.0),
    }
    tensors = [student.logits, student.embedding, *method.embed.parameters()]
    agree(method.loss(batch(), student, teacher), expected, tensors)


def test_srds_defaults_are_those_of_the_authors_imagenet_configuration() -> None:
    method = registry.create("srd")
    assert (method.weight, method.kd_weight, method.temperature, method.exponent) == (2.0, 1.0, 1.0, 4.0)
    assert (method.ce_weight, method.form) == (1.0, "logsum")


def trained_on(method: Method, ours: Tensor, theirs: Tensor) -> tuple[Tensor, list[Tensor]]:
    size = len(ours)
    student, teacher = (Output(logits(size=size), embedding) for embedding in (ours.requires_grad_(), theirs))
    term = method.loss(batch(size=size), student, teacher)["representation"]
    return term, list(torch.autograd.grad(term, [ours, *method.parameters()]))


@pytest.mark.parametrize("form", ["logsum", "correlation"])
@pytest.mark.parametrize("case", ["one sample", "two samples", "constant", "large"])
def test_srd_is_finite_where_the_batch_says_little(case: str, form: str) -> None:
    torch.set_default_dtype(torch.float32)
    method = registry.create("srd", {"form": form})
    method.build(network(embedding=3), network(embedding=4))
    size = {"one sample": 1, "two samples": 2}.get(case, BATCH)
    scale = {"constant": 0.0, "large": 1e4}.get(case, 1.0)
    term, gradients = trained_on(method, scale * torch.randn(size, 3), scale * torch.randn(size, 4))
    assert term.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_srd_at_a_perfect_fit_has_no_gradient_instead_of_one_without_bound() -> None:
    method = registry.create("srd", {"weight": 1.0})
    method.build(network(embedding=3), network(embedding=3))
    torch.nn.init.eye_(method.embed.weight)
    torch.nn.init.zeros_(method.embed.bias)
    embedding = torch.randn(BATCH, 3)
    term, gradients = trained_on(method, embedding.clone(), embedding)
    close(term, torch.tensor(1e-12).log())
    assert not any(gradient.any() for gradient in gradients)


def test_srd_weighs_a_teachers_embedding_the_same_at_any_scale() -> None:
    method = registry.create("srd")
    method.build(network(embedding=3), network(embedding=4))
    ours, theirs = torch.randn(BATCH, 3), 100 * torch.randn(BATCH, 4)
    terms = [trained_on(method, ours, each)[0] for each in (theirs, 1e3 * theirs + 5)]
    torch.testing.assert_close(*terms, rtol=1e-6, atol=0)


def test_srd_under_autocast_is_float32() -> None:
    torch.set_default_dtype(torch.float32)
    method = registry.create("srd")
    method.build(network(embedding=3), network(embedding=4))
    student, teacher = embedded(3), embedded(4)
    plain = method.loss(batch(), student, teacher)["representation"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = method.loss(batch(), student, teacher)["representation"]
    assert term.dtype == torch.float32
    assert torch.equal(term, plain)


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^srd's form is 'mse'"):
        registry.create("srd", {"form": "mse"})

"""sp matches the rows of the batch's Gram matrices."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    mean,
    output,
    total,
)
from torch import Tensor

from kdbench import KDBenchError, registry


def similarity_rows(feature: Tensor) -> list[Tensor]:
    """Rows of the Gram matrix, each of unit length."""
    rows = [torch.stack([(a * b).sum() for b in feature]) for a in feature]
    return [row / torch.sqrt((row**2).sum()) for row in rows]


def sp_by_loops(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = zip(similarity_rows(student), similarity_rows(teacher), strict=True)
    return sum((((ours - theirs) ** 2).sum() for ours, theirs in pairs), torch.zeros(())) / len(student) ** 2


@pytest.mark.equation
def test_sp_is_the_difference_of_row_normalised_gram_matrices_over_the_batch_squared() -> None:
    from kdbench.methods.relations.sp import similarity_loss

    student = output(features=maps((2, 4, 4), (3, 2, 2), trained=True))
    teacher = output(features=maps((2, 4, 4), (5, 4, 4)))
    raw = sp_by_loops(student.features[-1], teacher.features[-1])
    close(similarity_loss(student.features[-1], teacher.features[-1]), raw)
    expected = {"ce": labels(student.logits, batch()), "similarity": 3000 * raw}
    agree(registry.create("sp").loss(batch(), student, teacher), expected, [student.logits, student.features[-1]])


@pytest.mark.parametrize("size", [16, 64])
def test_the_weight_is_the_papers_at_every_batch_size(size: int) -> None:
    student, teacher = (output(logits(size=size), maps((2, 3, 3), size=size)) for _ in range(2))
    term = registry.create("sp").loss(batch(size=size), student, teacher)["similarity"]
    close(term, 3000 * sp_by_loops(student.features[-1], teacher.features[-1]))


def test_a_reference_batch_keeps_its_bits_and_scales_the_others() -> None:
    plain, fixed = registry.create("sp"), registry.create("sp", {"reference_batch": 64})
    for size in (16, 64, 128):
        student, teacher = (output(logits(size=size), maps((2, 3, 3), size=size)) for _ in range(2))
        ours, theirs = (each.loss(batch(size=size), student, teacher)["similarity"] for each in (fixed, plain))
        close(ours, theirs * size / 64)
        assert torch.equal(ours, theirs) == (size == 64)
    with pytest.raises(KDBenchError, match="sp's reference_batch is 0: give 1 or more"):
        registry.create("sp", {"reference_batch": 0})


def test_with_a_reference_batch_the_same_weight_means_the_same_at_other_batches() -> None:
    ours, theirs = torch.randn(256, 8), torch.randn(256, 8)
    method = registry.create("sp", {"reference_batch": 64})

    def at(size: int) -> Tensor:
        parts = zip(ours.split(size), theirs.split(size), strict=True)
        pairs = [[output(logits(size=size), [e[:, :, None, None]]) for e in part] for part in parts]
        return mean(method.loss(batch(size=size), *pair)["similarity"] for pair in pairs)

    assert float(at(32) / at(64)) == pytest.approx(1, abs=0.15)
    assert float(at(128) / at(64)) == pytest.approx(1, abs=0.15)


def test_relations_of_one_sample_or_of_equal_ones_are_finite() -> None:
    for size in (1, 3):
        value = torch.ones(size, 4, 1, 1, requires_grad=True)
        student = output(logits(size=size), [value])
        terms = registry.create("sp").loss(batch(size=size), student, student)
        gradient = torch.autograd.grad(total(terms), [student.logits, value], allow_unused=True)[1]
        assert all(term.isfinite() for term in terms.values())
        assert gradient is None or gradient.isfinite().all()


def test_relations_are_computed_in_full_precision_under_autocast() -> None:
    torch.set_default_dtype(torch.float32)
    sides = [torch.randn(16, 8) for _ in range(2)]
    student, teacher = (output(logits(size=16).float(), [e[:, :, None, None]]) for e in sides)
    method, data = registry.create("sp"), batch(size=16)
    plain = method.loss(data, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = method.loss(data, student, teacher)
    for term in plain.keys() - {"ce"}:
        assert torch.equal(plain[term], cast[term])

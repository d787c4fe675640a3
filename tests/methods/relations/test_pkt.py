"""pkt matches the batch's cosines, read as probabilities."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    agree,
    batch,
    close,
    embedded,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    total,
)
from torch import Tensor

from kdbench import KDBenchError, registry


def similarity_probabilities(embedding: Tensor) -> list[list[Tensor]]:
    """Cosines moved to [0, 1], as probabilities given each sample."""
    unit = [e / (torch.sqrt((e**2).sum()) + 1e-7) for e in embedding]
    rows = [[((a * b).sum() + 1) / 2 for b in unit] for a in unit]
    return [[value / sum(row) for value in row] for row in rows]


def pkt_by_loops(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = similarity_probabilities(student), similarity_probabilities(teacher)
    return mean(
        t * torch.log((t + 1e-7) / (s + 1e-7))
        for row, other in zip(theirs, ours, strict=True)
        for t, s in zip(row, other, strict=True)
    )


@pytest.mark.equation
def test_pkt_is_the_mean_divergence_of_the_cosines_read_as_probabilities() -> None:
    from kdbench.methods.relations.pkt import similarity_loss

    student, teacher = embedded(3, trained=True), embedded(5)
    raw = pkt_by_loops(student.embedding, teacher.embedding)
    close(similarity_loss(student.embedding, teacher.embedding), raw)
    expected = {"ce": labels(student.logits, batch()), "transfer": 30000 * raw}
    agree(registry.create("pkt").loss(batch(), student, teacher), expected, [student.logits, student.embedding])


@pytest.mark.parametrize("size", [16, 64])
def test_the_weight_is_the_papers_at_every_batch_size(size: int) -> None:
    student, teacher = embedded(4, size=size), embedded(4, size=size)
    term = registry.create("pkt").loss(batch(size=size), student, teacher)["transfer"]
    close(term, 30000 * pkt_by_loops(student.embedding, teacher.embedding))


def test_a_reference_batch_keeps_its_bits_and_scales_the_others() -> None:
    plain, fixed = registry.create("pkt"), registry.create("pkt", {"reference_batch": 64})
    for size in (16, 64, 128):
        student, teacher = embedded(4, size=size), embedded(4, size=size)
        ours, theirs = (each.loss(batch(size=size), student, teacher)["transfer"] for each in (fixed, plain))
        close(ours, theirs * size / 64)
        assert torch.equal(ours, theirs) == (size == 64)
    with pytest.raises(KDBenchError, match="pkt's reference_batch is 0: give 1 or more"):
        registry.create("pkt", {"reference_batch": 0})


def test_with_a_reference_batch_the_same_weight_means_the_same_at_other_batches() -> None:
    ours, theirs = torch.randn(256, 8), torch.randn(256, 8)
    method = registry.create("pkt", {"reference_batch": 64})

    def at(size: int) -> Tensor:
        parts = zip(ours.split(size), theirs.split(size), strict=True)
        pairs = [[output(logits(size=size), embedding=e) for e in part] for part in parts]
        return mean(method.loss(batch(size=size), *pair)["transfer"] for pair in pairs)

    assert float(at(32) / at(64)) == pytest.approx(1, abs=0.15)
    assert float(at(128) / at(64)) == pytest.approx(1, abs=0.15)


def test_relations_of_one_sample_or_of_equal_ones_are_finite() -> None:
    for size in (1, 3):
        student = output(logits(size=size), embedding=torch.ones(size, 4, requires_grad=True))
        terms = registry.create("pkt").loss(batch(size=size), student, embedded(5, size))
        gradient = torch.autograd.grad(total(terms), [student.logits, student.embedding], allow_unused=True)[1]
        assert all(term.isfinite() for term in terms.values())
        assert gradient is None or gradient.isfinite().all()


def test_relations_are_computed_in_full_precision_under_autocast() -> None:
    torch.set_default_dtype(torch.float32)
    sides = [torch.randn(16, 8) for _ in range(2)]
    student, teacher = (output(logits(size=16).float(), embedding=e) for e in sides)
    method, data = registry.create("pkt"), batch(size=16)
    plain = method.loss(data, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = method.loss(data, student, teacher)
    for term in plain.keys() - {"ce"}:
        assert torch.equal(plain[term], cast[term])

"""rkd matches all distances and all angles of the batch."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    BATCH,
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

from kdbench import registry


def huber(x: Tensor) -> Tensor:
    return x**2 / 2 if x.abs() < 1 else x.abs() - 0.5


def pair_distances(embedding: Tensor) -> list[Tensor]:
    """All B^2 distances over the mean of the positive ones; between two samples at least 1e-6."""
    size = len(embedding)
    lengths = [
        torch.zeros(()) if i == j else ((embedding[i] - embedding[j]) ** 2).sum().clamp(min=1e-12).sqrt()
        for i in range(size)
        for j in range(size)
    ]
    positive = [length for length in lengths if length > 0]
    return [length / (sum(positive) / len(positive)) for length in lengths]


def triple_angles(embedding: Tensor) -> list[Tensor]:
    """All B^3 cosines at sample i; zero where j or k is i."""
    size, found = len(embedding), []
    for i in range(size):
        ways = [embedding[j] - embedding[i] for j in range(size)]
        ways = [way / (way**2).sum().sqrt() if bool(way.any()) else 0 * way for way in ways]
        found += [(ways[j] * ways[k]).sum() for j in range(size) for k in range(size)]
    return found


@pytest.mark.equation
@pytest.mark.parametrize("twins", [False, True])
def test_rkd_matches_all_distances_and_all_angles_of_the_batch(twins: bool) -> None:
    student, teacher = embedded(3, trained=True), embedded(5)
    if twins:  # two samples that the teacher cannot tell apart
        teacher.embedding[1] = teacher.embedding[0]
    ours, theirs = student.embedding, teacher.embedding
    expected = {"ce": labels(student.logits, batch())}
    for name, weight, values in (("distance", 25, pair_distances), ("angle", 50, triple_angles)):
        expected[name] = weight * mean(huber(s - t) for s, t in zip(values(ours), values(theirs), strict=True))
    assert len(triple_angles(ours)) == BATCH**3
    agree(registry.create("rkd").loss(batch(), student, teacher), expected, [student.logits, student.embedding])


def test_rkds_weights_multiply_its_terms() -> None:
    student, teacher = embedded(3, trained=True), embedded(5)
    plain = registry.create("rkd").loss(batch(), student, teacher)
    options = {"weight": 2.0, "distance_weight": 50.0, "angle_weight": 25.0}
    terms = registry.create("rkd", options).loss(batch(), student, teacher)
    close(terms["distance"], 4 * plain["distance"])
    close(terms["angle"], plain["angle"])


def test_relations_of_one_sample_or_of_equal_ones_are_finite() -> None:
    for size in (1, 3):
        student = output(logits(size=size), embedding=torch.ones(size, 4, requires_grad=True))
        terms = registry.create("rkd").loss(batch(size=size), student, embedded(5, size))
        gradient = torch.autograd.grad(total(terms), [student.logits, student.embedding], allow_unused=True)[1]
        assert all(term.isfinite() for term in terms.values())
        assert gradient is None or gradient.isfinite().all()


def test_relations_are_computed_in_full_precision_under_autocast() -> None:
    torch.set_default_dtype(torch.float32)
    sides = [torch.randn(16, 8) for _ in range(2)]
    student, teacher = (output(logits(size=16).float(), embedding=e) for e in sides)
    method, data = registry.create("rkd"), batch(size=16)
    plain = method.loss(data, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = method.loss(data, student, teacher)
    for term in plain.keys() - {"ce"}:
        assert torch.equal(plain[term], cast[term])

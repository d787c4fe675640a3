"""kdsvd is RepDistiller's code where a sign is chosen alike, and its gradient is finite where that code's is NaN."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    bfloat16_terms,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    network,
    output,
)
from torch import Tensor

from kdbench import NotApplicable, registry
from kdbench.methods.features import kdsvd

SHAPES = ((3, 4, 6), (5, 4, 2), (6, 2, 2))


def as_repdistiller(golden: dict[str, Tensor], patch: pytest.MonkeyPatch) -> None:
    """Turns the teacher's vectors as the vectors' code happened to have them, stage after stage."""
    wanted = iter(golden[f"out_v_t_{k}"] for k in range(3))

    def turned(vectors: Tensor) -> Tensor:
        return vectors * (vectors * next(wanted)).sum(1, keepdim=True).sign()

    patch.setattr(kdsvd, "oriented", turned)


@pytest.mark.equation
def test_kdsvd_agrees_with_repdistiller_in_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = goldens.load("kdsvd_grad")
    as_repdistiller(golden, monkeypatch)
    ours, theirs = goldens.sides(golden)
    term = registry.create("kdsvd").loss(goldens.batch(), *(goldens.output(features=f) for f in (ours, theirs)))
    goldens.close(term["change"], golden["loss"])
    goldens.gradients_agree(term["change"], goldens.named(ours), {}, golden)


def test_kdsvd_finds_the_singular_vectors_that_repdistiller_finds() -> None:
    golden = goldens.load("kdsvd_grad")
    for k in range(3):
        vector = golden[f"out_v_t_{k}"]
        found = kdsvd.right_vectors(golden[f"feat_t_{k}"], 1).squeeze(2)
        goldens.close(found * (found * vector).sum(1, keepdim=True).sign(), vector, atol=1e-12)
        chosen = kdsvd.closest(kdsvd.right_vectors(golden[f"feat_s_{k}"], 4), vector)
        goldens.close(chosen, golden[f"out_v_s_{k}"], atol=1e-12)


def test_kdsvd_differs_from_repdistiller_by_the_teachers_signs_alone() -> None:
    golden = goldens.load("kdsvd_grad")
    for k in (1, 2):
        theirs = [kdsvd.oriented(kdsvd.right_vectors(golden[f"feat_t_{i}"], 1).squeeze(2)) for i in (k - 1, k)]
        ours = [
            kdsvd.closest(kdsvd.right_vectors(golden[f"feat_s_{i}"], 4), v)
            for i, v in zip((k - 1, k), theirs, strict=True)
        ]
        values = (kdsvd.relation(*ours) - kdsvd.relation(*theirs)).pow(2).sum((1, 2))
        same, flipped = (golden[f"out_pair_{k}_{which}"] for which in ("same", "flipped"))
        assert ((values - same).abs().minimum((values - flipped).abs()) < 1e-9).all()


def dominant(rows: Tensor, count: int) -> list[Tensor]:
    """Right-singular vectors of `[M, C]` one after the other, by powers of its Gram matrix, and differentiable."""
    gram, found = rows.T @ rows, []
    for _ in range(count):
        vector = torch.linspace(1.0, 2.0, len(gram))
        for _ in range(60):  # an eigenvalue is a quarter of the one before
            product = gram @ vector
            vector = product / torch.sqrt((product**2).sum())
        found.append(vector)
        gram = gram - (vector @ gram @ vector) * torch.outer(vector, vector)
    return found


def with_gaps(shape: tuple[int, ...]) -> Tensor:
    """A map whose singular values halve, so that powers converge."""
    channels, *space = shape
    length = space[0] * space[1]
    rank = min(channels, length)
    left, right = (torch.linalg.qr(torch.randn(n, n))[0][:, :rank] for n in (length, channels))
    return (left * 0.5 ** torch.arange(rank) @ right.T).T.reshape(shape)


def by_loops(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """One sample's distance, entry by entry."""
    theirs, ours = [], []
    for s, t in zip(student, teacher, strict=True):
        vector = dominant(t.flatten(1).T, 1)[0]
        theirs.append(vector if sum(vector) >= 0 else -vector)
        candidates = dominant(s.flatten(1).T, min(4, *s.flatten(1).shape))
        cosines = [candidate @ theirs[-1] for candidate in candidates]
        best = max(range(len(cosines)), key=lambda k: abs(float(cosines[k].detach())))
        ours.append(candidates[best] * (1 if cosines[best] >= 0 else -1))
    total = torch.zeros(())
    for (s0, s1), (t0, t1) in zip(pairwise(ours), pairwise(theirs), strict=True):
        for a in range(len(s1)):
            for b in range(len(s0)):
                change = [torch.exp(-((above[a] - below[b]) ** 2) / 8) for above, below in ((s1, s0), (t1, t0))]
                total = total + (change[0] - change[1]) ** 2
    return total


@pytest.mark.equation
def test_kdsvd_is_its_equation_with_vectors_found_by_powers() -> None:
    ours, theirs = ([torch.stack([with_gaps(shape) for _ in range(2)]) for shape in SHAPES] for _ in range(2))
    goldens.require(*ours)
    z, data = logits(size=2), batch(size=2)
    distances = [by_loops([f[n] for f in ours], [f[n] for f in theirs]) for n in range(2)]
    expected = {"ce": 0.5 * labels(z, data), "change": 3 * (distances[0] + distances[1]) / 2}
    method = registry.create("kdsvd", {"weight": 3.0, "ce_weight": 0.5})
    agree(method.loss(data, output(z, ours), output(features=theirs)), expected, [z, *ours])


def test_kdsvds_weights_are_those_of_repdistiller() -> None:
    method = registry.create("kdsvd")
    assert (method.weight, method.ce_weight, kdsvd.CANDIDATES) == (1.0, 1.0, 4)


def test_kdsvd_does_not_depend_on_the_signs_that_the_decomposition_happens_to_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher = output(features=maps(*SHAPES)), output(features=maps(*SHAPES))
    method, plain = registry.create("kdsvd"), kdsvd.right_vectors
    before = method.loss(batch(), student, teacher)["change"]
    monkeypatch.setattr(kdsvd, "right_vectors", lambda feature, count: -plain(feature, count))
    close(method.loss(batch(), student, teacher)["change"], before)


def test_kdsvd_of_equal_maps_is_the_cross_entropy() -> None:
    same = maps(*SHAPES)
    close(
        registry.create("kdsvd").loss(batch(), output(features=same), output(features=same))["change"], torch.zeros(())
    )


@pytest.mark.parametrize("case", ["dead", "of one value", "with equal singular values", "of one position", "large"])
@pytest.mark.parametrize("size", [1, BATCH])
def test_kdsvd_has_a_finite_gradient_where_singular_values_agree(size: int, case: str) -> None:
    torch.set_default_dtype(torch.float32)
    side = 1 if case == "of one position" else 2
    made = {
        "dead": lambda: torch.zeros(size, 4, side, side),
        "of one value": lambda: torch.ones(size, 4, side, side),
        "with equal singular values": lambda: torch.eye(4).reshape(4, side, side).repeat(size, 1, 1, 1),
        "of one position": lambda: torch.rand(size, 4, side, side),
        "large": lambda: 1e4 * torch.rand(size, 4, side, side),
    }[case]
    ours, theirs = (
        [made().requires_grad_(), torch.rand(size, 4, 4, 4).requires_grad_()],
        maps((4, 2, 2), (4, 4, 4), size=size),
    )
    terms = registry.create("kdsvd").loss(
        batch(size=size), output(logits(size=size), ours), output(logits(size=size), theirs)
    )
    gradients = torch.autograd.grad(terms["change"], ours)
    assert terms["change"].isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(((2, 4, 4), (3, 2, 2)), ((2, 4, 4), (4, 2, 2))), (((2, 4, 4), (3, 2, 2)), ((2, 4, 4),)), (((2, 4, 4),),) * 2],
    ids=["other channels", "other stages", "one stage"],
)
def test_kdsvd_refuses_a_pair_whose_stages_have_not_the_same_channels(
    ours: tuple[tuple[int, ...], ...], theirs: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(NotApplicable, match=r"kdsvd needs two stages .* 'some' has \[2"):
        registry.create("kdsvd").build(network(*ours), network(*theirs))


def test_kdsvd_in_float32_has_the_gradient_of_float64_where_two_singular_values_are_near() -> None:
    left, right = (torch.linalg.qr(torch.randn(BATCH, 8, n))[0] for n in (4, 4))
    near = (left * torch.tensor([1.0, 0.998, 0.5, 0.25]) @ right.mT).reshape(BATCH, 8, 2, 4).float()
    ours, theirs = [near, maps(SHAPES[0])[0].float()], [f.float() for f in maps((8, 2, 4), SHAPES[0])]
    gradients = []
    for dtype in (torch.float64, torch.float32):
        student, teacher = ([feature.to(dtype).requires_grad_() for feature in side] for side in (ours, theirs))
        z = torch.zeros(BATCH, 4, dtype=dtype)
        term = registry.create("kdsvd").loss(batch(), output(z, student), output(z, teacher))["change"]
        assert term.dtype == dtype
        gradients.append(torch.autograd.grad(term, student)[0].double())
    assert (gradients[1] - gradients[0]).norm() < 1e-6 * gradients[0].norm()


def test_losses_on_bfloat16_maps_are_float32_and_finite() -> None:
    for term in bfloat16_terms("kdsvd").values():
        assert term.dtype == torch.float32
        assert term.isfinite()

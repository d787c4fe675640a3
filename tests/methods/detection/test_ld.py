"""ld imitates the distributions of the boxes' edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.detectors import batch, detector, imitation, method, run, twice
from support.loops import float64  # noqa: F401  (a fixture for every test here)
from torch import Tensor

from kdbench import NotApplicable


def divergence(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """T^2 KL(t || s) / K of two logits `[K]`."""
    p, q = (s / temperature).softmax(0), (t / temperature).softmax(0)
    return temperature**2 * (q * (q / p).log()).sum() / len(s)


def by_loops(student: Any, ours: Any, theirs: Any, given: Any, official: bool) -> dict[str, Tensor]:
    head = student.head
    matches = head.match(given, ours.boxes)
    sums: dict[str, list[list[Tensor]]] = {"ld": [], "vlr": [], "kd": []}
    start = 0
    for level in range(3):
        z, z_t = (head.flat([each.classes[level]], 3) for each in (ours, theirs))
        e, e_t = (head.flat([each.boxes[level]], 68).reshape(2, -1, 4, 17) for each in (ours, theirs))
        rows: dict[str, list[Tensor]] = {name: [torch.zeros(()), torch.zeros(())] for name in sums}
        for b in range(2):
            for n in range(z.shape[1]):
                near = matches.near[b, start + n]
                edges = sum(divergence(e[b, n, k], e_t[b, n, k], 10.0) for k in range(4))
                if matches.objects[b, start + n] >= 0:
                    w = z[b, n].detach().sigmoid().max()
                    rows["ld"] = [rows["ld"][0] + w * edges / 4, rows["ld"][1] + w]
                    rows["kd"] = [rows["kd"][0] + divergence(z[b, n], z_t[b, n], 2.0), rows["kd"][1] + 1]
                if near > 0:
                    rows["vlr"] = [rows["vlr"][0] + near * edges / 16, rows["vlr"][1] + near]
        for name, pair in rows.items():
            sums[name].append(pair)
        start += z.shape[1]
    found = {}
    for name, levels in sums.items():
        total, weight = (sum(level[k] for level in levels) for k in (0, 1))
        if not official:
            found[name] = total / weight
        elif name == "kd":
            found[name] = sum((a / b for a, b in levels if b), torch.zeros(()))
        else:
            found[name] = total
    return {"ld": 0.25 * found["ld"], "vlr": 0.25 * found["vlr"], "kd": 10 * found["kd"]}


@pytest.mark.equation
@pytest.mark.parametrize("official", [False, True])
def test_the_terms_agree_with_the_equation_place_by_place(official: bool) -> None:
    student, teacher = detector("gfl"), detector("gfl", seed=1)
    given = batch()
    made = method("ld", student, teacher, official_scale=official)
    with torch.no_grad():
        theirs = teacher.eval()(given.inputs)
    ours = student(given.inputs)
    terms = imitation(made.compute(given, [ours], [theirs]))
    expected = by_loops(student, ours, theirs, given, official)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        assert term > 0
        goldens.close(term, expected[name], atol=1e-12)
    wanted = list(student.head.parameters())
    pairs = [torch.autograd.grad(sum(each.values()), wanted, retain_graph=True) for each in (terms, expected)]
    for one, other in zip(*pairs, strict=True):
        goldens.close(one, other, atol=1e-12)


def test_the_authors_scale_grows_with_the_batch() -> None:
    student, teacher = detector("gfl").eval(), detector("gfl", seed=1).eval()
    made = method("ld", student, teacher, official_scale=True)
    one, two = (imitation(run(made, student, teacher, given)) for given in (batch(), twice(batch())))
    goldens.close(two["ld"], 2 * one["ld"], atol=1e-9)
    goldens.close(two["kd"], one["kd"], atol=1e-9)


@pytest.mark.parametrize("official", [False, True])
def test_a_batch_without_objects_has_terms_of_zero_that_hang_on_the_student(official: bool) -> None:
    student, teacher = detector("gfl"), detector("gfl", seed=1)
    made = method("ld", student, teacher, official_scale=official)
    terms = imitation(run(made, student, teacher, batch([[], []])))
    assert {name: term.item() for name, term in terms.items()} == {"ld": 0, "vlr": 0, "kd": 0}
    assert all(term.requires_grad for term in terms.values())


def test_heads_without_distributions_and_a_single_class_are_refused() -> None:
    with pytest.raises(NotApplicable, match="gives one number: take a gfl head"):
        method("ld", detector("fcos"), detector("fcos"))
    single = detector("gfl", classes=1)
    with pytest.raises(NotApplicable, match="has one, of which it is always 1: set kd_weight to 0"):
        method("ld", single, single)
    method("ld", single, single, kd_weight=0.0)

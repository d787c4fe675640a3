"""pred_mimic has cross_kd's losses on the student's own predictions."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.detectors import batch, detector, imitation, method, run
from support.loops import float64  # noqa: F401  (a fixture for every test here)

from kdbench import NotApplicable


@pytest.mark.equation
def test_distributions_agree_with_the_equation_place_by_place() -> None:
    student, teacher = detector("gfl"), detector("gfl", seed=1)
    given = batch(sizes=[[64, 64], [30, 64]])
    made = method("pred_mimic", student, teacher)
    with torch.no_grad():
        theirs = teacher.eval()(given.inputs)
    ours = student(given.inputs)
    terms = imitation(made.compute(given, [ours], [theirs]))
    head = student.head
    matches = head.match(given, ours.boxes)
    logits, logits_t = head.flat(ours.classes, 3), head.flat(theirs.classes, 3)
    edges, edges_t = (head.flat(each.boxes, head.code).reshape(2, -1, 4, 17) for each in (ours, theirs))
    centres = torch.cat(head.anchors(ours.boxes)).reshape(-1, 2, 2).mean(1)
    cls, box, weights = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for b in range(2):
        for n in range(logits.shape[1]):
            if not (centres[n] < given.sizes[b].flip(0)).all():
                continue
            p, q = logits[b, n].sigmoid(), logits_t[b, n].sigmoid()
            cls = cls + (-(q * p.log() + (1 - q) * (1 - p).log()) * (p - q).abs()).sum()
            weights = weights + q.max()
            for edge in range(4):
                s, t = edges[b, n, edge].softmax(0), edges_t[b, n, edge].softmax(0)
                box = box + q.max() * (t * (t / s).log()).sum() / (4 + 1.1920929e-07)
    expected = {
        "mimic_cls": cls / (matches.positive.sum() + 1.1920929e-07),
        "mimic_box": 4 * box / weights,
    }
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        goldens.close(term, expected[name], atol=1e-12)
    wanted = list(student.parameters())
    pairs = [torch.autograd.grad(sum(each.values()), wanted, retain_graph=True) for each in (terms, expected)]
    for one, other in zip(*pairs, strict=True):
        goldens.close(one, other, atol=1e-10)


def test_the_students_last_layers_learn_from_the_teacher() -> None:
    student, teacher = detector(), detector(seed=1)
    sum(imitation(run(method("pred_mimic", student, teacher), student, teacher, batch())).values()).backward()
    assert student.head.layers.classification_head.cls_logits.weight.grad.abs().sum() > 0
    assert student.head.layers.regression_head.bbox_ctrness.weight.grad is None  # it is not imitated


def test_heads_of_two_forms_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"codes them as fcos with 4 numbers and .* as gfl with 68"):
        method("pred_mimic", detector("fcos"), detector("gfl"))
    with pytest.raises(NotApplicable, match="take heads of one form"):
        method("pred_mimic", detector("gfl"), detector("gfl", bins=8))

"""What holds for every method of detection, on every form of head."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.detectors import batch, detector, imitation, method, run, twice

from kdbench import NotApplicable, registry

METHODS = sorted(set(registry.names("detection")) - {"student"})
PAIRS = [(name, form) for name in METHODS for form in ("fcos", "retinanet", "gfl") if name != "ld" or form == "gfl"]


def pair(form: str, **options: Any) -> tuple[Any, Any]:
    return detector(form), detector(form, seed=1, **options).requires_grad_(False).eval()


def test_the_methods_of_the_literature_are_there() -> None:
    assert {"cross_kd", "fgfi", "fgd", "pkd", "ld", "pred_mimic"} <= {*METHODS}


@pytest.mark.parametrize(("name", "form"), PAIRS)
def test_a_gradient_reaches_the_student_and_no_teacher(name: str, form: str) -> None:
    student, teacher = pair(form)
    made = method(name, student, teacher)
    terms = imitation(run(made, student, teacher, batch()))
    total = sum(terms.values())
    assert total > 0  # labels aside, there is something to learn
    total.backward()
    assert sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None) > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(("name", "form"), PAIRS)
def test_a_batch_repeated_loses_the_same_and_one_without_objects_is_finite(name: str, form: str) -> None:
    student, teacher = pair(form)
    student.eval()
    made = method(name, student, teacher)
    one, two = (run(made, student, teacher, given) for given in (batch(), twice(batch())))
    loose = 0.1 if name == "pkd" else 1e-4  # (M - 1) / M of the M places of a channel, 8 in the coarsest level
    for key, term in one.items():
        torch.testing.assert_close(two[key], term, rtol=loose, atol=1e-5)
    nothing = run(made, student, teacher, batch([[], []]))
    assert nothing.keys() == one.keys()
    for key, term in nothing.items():
        assert term.isfinite()
        assert term.requires_grad, f"{key} is cut off from the student"
    sum(nothing.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_teacher_in_train_mode_of_the_whole_is_still_the_same(name: str) -> None:
    student, teacher = pair("gfl")
    made = method(name, student, teacher)
    before = copy.deepcopy({**made.state_dict(), **teacher.state_dict()})
    one, two = (imitation(run(made.train(), student, teacher, batch())) for _ in range(2))
    for key, term in one.items():
        torch.testing.assert_close(two[key], term, rtol=0, atol=0)
    for key, tensor in {**made.state_dict(), **teacher.state_dict()}.items():
        assert torch.equal(tensor, before[key])


@pytest.mark.parametrize("name", METHODS)
def test_terms_under_autocast_are_float32_and_finite(name: str) -> None:
    student, teacher = pair("gfl", width=16)
    made = method(name, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = run(made, student, teacher, batch())
    for term in terms.values():
        assert term.dtype == torch.float32
        assert term.isfinite()


@pytest.mark.parametrize("name", METHODS)
def test_a_single_small_picture_and_levels_of_one_cell_are_finite(name: str) -> None:
    student, teacher = detector("gfl", levels=5), detector("gfl", seed=1, levels=5)
    terms = run(method(name, student, teacher), student, teacher, batch([[(10.0, 10.0, 20.0, 24.0)]]))
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


def test_a_composition_learns_the_labels_once() -> None:
    student, teacher = pair("fcos")
    terms = run(method("cross_kd+pkd", student, teacher), student, teacher, batch())
    assert sorted(terms) == [
        "cross_box", "cross_cls", "feature", "labels.box", "labels.centerness", "labels.cls"
    ]  # fmt: skip


def test_methods_of_the_logits_refuse_a_detector() -> None:
    student, teacher = pair("fcos")
    with pytest.raises(NotApplicable, match="kd reads logits of one choice among classes"):
        method("kd", student, teacher)

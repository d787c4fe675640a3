"""dlkd is the authors' alignment, correlation and contrast of rotated views."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import goldens
from support.inputs import (
    agree,
    euclidean,
    images,
    ready,
    same,
    state,
    step_on,
    teacher_and_student,
    trains_in_bf16_and_resumes,
)
from support.loops import (
    CLASSES,
    close,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    mean,
    output,
    probabilities,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, registry
from kdbench.methods.relations import dlkd


def golden_dlkd() -> tuple[Any, dict[str, Tensor], dict[str, nn.Module]]:
    golden = goldens.load("dlkd")
    method = registry.create("dlkd", {"width": 16})
    ours, theirs = (goldens.network([golden[f"feat_{side}"]]) for side in "st")
    method.build(ours, theirs)
    method.double()
    modules = {
        "align.mlp.net.": method.align,
        "corr.mlp.net.": method.correlate,
        "supcon.embed_s.linear.": method.embed_student,
        "supcon.embed_t.linear.": method.embed_teacher,
    }
    for prefix, module in modules.items():
        goldens.load_parameters(module, golden, prefix)
    return method, golden, modules


@pytest.mark.equation
def test_dlkd_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    method, golden, modules = golden_dlkd()
    goldens.require(golden["feat_s"])
    logits = golden["logits_s"].requires_grad_()  # of all views; the label counts for every fourth
    terms = method.loss(
        goldens.batch(golden["target"]),
        output(logits, embedding=golden["feat_s"]),
        output(torch.zeros(32, goldens.CLASSES), embedding=golden["feat_t"]),
    )
    names = {"ce": (1, "ce"), "correlation": (50, "corr"), "contrast": (1, "supcon"), "align": (20, "align")}
    assert terms.keys() == names.keys()
    for name, (weight, theirs) in names.items():
        goldens.close(terms[name] / weight, golden[f"loss_{theirs}"])
    loss = sum(terms.values())
    goldens.close(loss, golden["loss_total"])
    goldens.gradients_agree(loss, {"feat_s": golden["feat_s"], "logits_s": logits}, modules, golden)


def test_dlkd_shows_the_student_all_rotations_and_runs_the_teacher_on_the_new_ones_alone() -> None:
    teacher, student = teacher_and_student()
    inputs = images(5)
    method = ready("dlkd", teacher, student, inputs, align_mult=2, shift=0.0)
    step = step_on(teacher, student, inputs)
    reference, method_too = copy.deepcopy(student), copy.deepcopy(method)
    teacher.seen.clear()
    terms = method.step(step)
    rows = torch.stack([view for x in inputs for view in rotations(x)])
    assert torch.equal(student.seen[-1], rows)
    assert len(student.seen) == 1
    assert [len(x) for x in teacher.seen] == [15]
    with torch.no_grad():
        theirs = teacher(rows)
    expected = method_too.loss(step.batch, reference(rows), theirs)
    agree(terms, student, expected, reference)
    assert step.updates == [terms]


def rotations(x: Tensor) -> list[Tensor]:
    """One image `[C, H, W]` turned counterclockwise by 0, 90, 180, 270 degrees, as numpy does it."""
    return [torch.from_numpy(np.rot90(x.numpy(), turns, (1, 2)).copy()) for turns in range(4)]


def test_dlkd_moves_each_rotated_view_on_its_own_before_black() -> None:
    torch.manual_seed(2)
    pictures, background = images(300, 5), torch.tensor([[[-7.0]], [[-9.0]]])
    moved = dlkd.moved(pictures, 1, background)
    offsets = set()
    for before, after in zip(pictures, moved, strict=True):
        shifts = {}
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            expected = background.expand(2, 5, 5).clone()
            for i, j in itertools.product(range(5), repeat=2):
                if 0 <= i - down < 5 and 0 <= j - right < 5:
                    expected[:, i, j] = before[:, i - down, j - right]
            shifts[down, right] = torch.equal(expected, after)
        assert sum(shifts.values()) == 1
        offsets.add(max(shifts, key=lambda key: shifts[key]))
    assert len(offsets) == 9


def test_dlkd_moves_views_by_an_eighth_of_the_side_over_the_datas_black() -> None:
    teacher, student = teacher_and_student()
    inputs = images(40, 16).clamp(-2, 2)
    method = ready("dlkd", teacher, student, inputs)
    close(method.black.flatten(), inputs.amin((0, 2, 3)))
    plain = torch.stack([torch.stack(rotations(x)[1:]) for x in inputs])
    rotated = method.rotated(inputs)
    assert rotated.shape == (40, 3, 2, 16, 16)
    middle = rotated[:, :, :, 2:-2, 2:-2]
    for before, after in zip(plain.flatten(0, 1), middle.flatten(0, 1), strict=True):
        places = itertools.product(range(5), repeat=2)
        assert any(torch.equal(before[:, i : i + 12, j : j + 12], after) for i, j in places)


@pytest.mark.parametrize("size", [1, 4])
def test_dlkd_with_one_view_relates_upright_images_to_each_other(size: int) -> None:
    teacher, student = teacher_and_student()
    inputs = images(size)
    method = ready("dlkd", teacher, student, inputs, views=1, align_mult=1, width=3)
    step = step_on(teacher, student, inputs)
    assert len(step.forward().embedding) == size  # BatchNorm over space takes a single image
    terms = method.step(step)
    assert all(term.isfinite() for term in terms.values())

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return sum(a * b) / (euclidean(a) * euclidean(b))

    ours, theirs = student(inputs).embedding, teacher(inputs).embedding
    g, a = method.correlate(ours), method.align(ours)
    relation = torch.zeros(())
    for i in range(size):
        s, t = (torch.stack([cosine(f[i], f[j]) for j in range(size)]) for f in (g, theirs))
        relation = relation + divergence(probabilities(t, 0.5), probabilities(s, 0.5)) / size
    close(terms["correlation"], 50 * relation)
    close(terms["align"], 20 * mean(2 - 2 * cosine(a[i], theirs[i]) for i in range(size)))
    joined = torch.cat([method.embed_student(ours), method.embed_teacher(theirs)])
    labels = [i % CLASSES for i in range(size)] * 2
    contrast = []
    for i in range(2 * size):
        others = [j for j in range(2 * size) if j != i]
        scores = {j: cosine(joined[i], joined[j]) / 0.07 for j in others}
        largest = max(cosine(joined[i], joined[i]) / 0.07, *scores.values())
        total = torch.log(sum(torch.exp(score - largest) for score in scores.values()) + 1e-7)
        contrast.append(mean(total - (scores[j] - largest) for j in others if labels[j] == labels[i]))
    close(terms["contrast"], mean(contrast))


def test_dlkd_takes_a_single_image_with_all_its_views() -> None:
    teacher, student = teacher_and_student()
    method = ready("dlkd", teacher, student, images(1), align_mult=1)
    terms = method.step(step_on(teacher, student, images(1)))
    assert all(term.isfinite() for term in terms.values())
    assert terms["correlation"] == 0


def test_dlkd_leaves_the_teacher_alone_and_trains_its_embedding() -> None:
    teacher, student = teacher_and_student()
    before = state(teacher)
    method = ready("dlkd", teacher, student, images(6), align_mult=1)
    sum(method.step(step_on(teacher, student, images(6))).values()).backward()
    assert same(before, state(teacher))
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in method.parameters())


def test_dlkds_heads_grow_with_align_mult() -> None:
    teacher, student = teacher_and_student()
    method = ready("dlkd", teacher, student, images(), align_mult=3)
    assert method.align[0].weight.shape == (12, 4)
    assert registry.get("mlkd_align_corr") is registry.get("dlkd")


def test_dlkd_refuses_images_that_are_not_square_and_a_fifth_view() -> None:
    teacher, student = teacher_and_student()
    with pytest.raises(NotApplicable, match="those of network 'tiny' are 6x7: set views=1"):
        ready("dlkd", teacher, student, torch.randn(4, 2, 6, 7))
    with pytest.raises(KDBenchError, match="dlkd's views are 5"):
        registry.create("dlkd", {"views": 5})


@pytest.mark.parametrize("views", [1, 2])
def test_variants_train_in_bf16_and_resume_to_the_same_bits(tmp_path: Path, views: int) -> None:
    trains_in_bf16_and_resumes(tmp_path, "dlkd", views=views)


def test_methods_on_inputs_need_images() -> None:
    tokens = torch.zeros(4, 7, dtype=torch.int64)
    with pytest.raises(NotApplicable, match="dlkd changes images, which network 'tiny' does not read"):
        ready("dlkd", *teacher_and_student(), tokens)

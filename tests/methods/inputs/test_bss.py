"""bss is the authors' loss on samples moved across the teacher's boundary, as plain loops have it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.inputs import (
    Tiny,
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
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    mean,
    probabilities,
)
from torch import Tensor

from kdbench import KDBenchError, NotApplicable, Output, registry
from kdbench.methods.inputs import bss


def soft_target_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """H of one sample at T 3, without T²."""
    pairs = zip(probabilities(teacher.detach(), 3.0), probabilities(student, 3.0), strict=True)
    return -sum((t * torch.log(s) for t, s in pairs), torch.zeros(()))


def attacked(teacher: Any, x: Tensor, target: int, eta: float = 0.3) -> Tensor:
    """One image `[C, H, W]`, moved until the teacher's answer changes."""
    top = int(teacher(x[None]).logits[0].argmax())
    for _ in range(10):
        x = x.detach().requires_grad_()
        z = teacher(x[None]).logits[0]
        if int(z.argmax()) != top:
            break
        (g,) = torch.autograd.grad(z[target] - z[top], x)
        x = (x + eta * (z[top] - z[target] + 1e-4).detach() * g / euclidean(g)).clamp(-2.5, 2.5)
    return x.detach()


def base_by_loops(student: Tensor, teacher: Tensor, targets: Tensor, size: int) -> list[int]:
    scores = {}
    for i, target in enumerate(targets.tolist()):
        if int(student[i].argmax()) == target == int(teacher[i].argmax()):
            pairs = enumerate(zip(probabilities(teacher[i]), probabilities(student[i]), strict=True))
            scores[i] = sum((t - s) ** 2 for c, (t, s) in pairs if c != target).item()
    return sorted(sorted(scores, key=lambda i: -scores[i])[:size])


@pytest.fixture
def runner_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attack goes to the teacher's second class instead of a random one."""
    monkeypatch.setattr(bss, "draw_classes", lambda logits: logits.topk(2).indices[:, 1])


@pytest.mark.equation
@pytest.mark.usefixtures("runner_up")
def test_bss_is_the_authors_loss_on_samples_moved_across_the_teachers_boundary() -> None:
    teacher, student = teacher_and_student()
    reference, inputs = copy.deepcopy(student), images(16)
    targets = teacher(inputs).logits.argmax(1)
    method = ready("bss", teacher, student, inputs, attack_size=5, eta=2.0)
    method.epoch = 6
    step = step_on(teacher, student, inputs, targets)
    terms = method.step(step)
    assert step.updates == [terms]

    ours, theirs = reference(inputs).logits, teacher(inputs).logits
    base = base_by_loops(ours, theirs, targets, 5)
    assert len(base_by_loops(ours, theirs, targets, 16)) > 5  # some are left out
    moved = torch.stack([attacked(teacher, inputs[i], int(theirs[i].topk(2).indices[1]), 2.0) for i in base])
    z, t = reference(moved).logits, teacher(moved).logits
    assert (t.argmax(1) != targets[base]).any()  # the attack works
    expected = {
        "ce": mean(cross_entropy(ours[i], int(targets[i])) for i in range(16)),
        "kd": (1 + 3 * (1 - 6 / 24)) * mean(soft_target_loss(ours[i], theirs[i]) for i in range(16)),
        "boundary": 2 * (1 - 4 / 3 * 6 / 24) * mean(soft_target_loss(z[i], t[i]) for i in range(5)),
    }
    agree(terms, student, expected, reference)


def test_bss_crosses_the_boundary_and_stops_behind_it() -> None:
    teacher, _ = teacher_and_student()
    inputs = images(12)
    answers = teacher(inputs).logits.argmax(1)
    moved = bss.cross_boundary(teacher, inputs, (answers + 1) % CLASSES)
    crossed = teacher(moved).logits.argmax(1) != answers
    assert crossed.any()
    for i in range(12):
        close(moved[i], attacked(teacher, inputs[i], int(answers[i] + 1) % CLASSES))
    again = bss.cross_boundary(teacher, inputs, (answers + 1) % CLASSES, steps=50)
    assert torch.equal(again[crossed], moved[crossed])


def test_bss_keeps_attacked_pixels_in_their_range() -> None:
    teacher, _ = teacher_and_student()
    inputs = images(12)
    moved = bss.cross_boundary(teacher, inputs, teacher(inputs).logits.argmin(1), eta=5.0, bound=0.7)
    assert moved.abs().max() <= 0.7


def test_bss_leaves_samples_without_a_gradient_finite() -> None:
    class Flat(Tiny):
        def forward(self, inputs: Tensor) -> Output:
            return Output(torch.eye(CLASSES)[: len(inputs)] + 0 * inputs.sum(), inputs)

    inputs = images(3)
    assert torch.equal(bss.cross_boundary(Flat(), inputs, torch.tensor([3, 3, 3]), bound=9.0), inputs)


def test_bss_moves_neither_the_teachers_statistics_nor_any_gradient() -> None:
    teacher, student = teacher_and_student()
    inputs = images(16)
    before = state(teacher)
    method = ready("bss", teacher, student, inputs)
    method.epoch = 1
    terms = method.step(step_on(teacher, student, inputs, teacher(inputs).logits.argmax(1)))
    assert terms["boundary"] > 0
    assert same(before, state(teacher))
    assert not teacher.training
    assert all(p.grad is None for network in (teacher, student) for p in network.parameters())


def test_bss_draws_classes_by_the_teachers_probability_and_never_its_own_answer() -> None:
    z = torch.tensor([2.0, 1.0, 0.0, -1.0])
    drawn = bss.draw_classes(z.repeat(20000, 1))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    rest = [p / sum(probabilities(z)[1:]) for p in probabilities(z)[1:]]
    torch.testing.assert_close(shares, torch.stack([torch.zeros(()), *rest]), atol=0.015, rtol=0)


def test_bss_draws_a_class_even_if_the_teacher_is_sure() -> None:
    assert set(bss.draw_classes(1e30 * torch.eye(3, dtype=torch.float32)[:1].repeat(99, 1)).tolist()) <= {1, 2}
    assert bss.draw_classes(torch.tensor([[0.0, 1.0]])).tolist() == [0]


@pytest.mark.parametrize("right", [0, 1])
def test_bss_without_two_base_samples_is_kd_alone(right: int) -> None:
    teacher, student = teacher_and_student(0.0)
    inputs = images(5)
    student.eval()
    targets = (teacher(inputs).logits.argmax(1) + 1) % CLASSES
    targets[:right] = teacher(inputs).logits.argmax(1)[:right]
    method = ready("bss", teacher, student, inputs)
    method.epoch = 1
    student.seen.clear()
    step = step_on(teacher, student, inputs, targets)
    terms = method.step(step)
    assert terms["boundary"] == 0
    assert torch.equal(student.seen[1], inputs[bss.base_samples(*[student(inputs).logits] * 2, targets, 5)[0]])
    parameters = list(student.parameters())
    alone = method.loss(step.batch, student(inputs), step.teacher_outputs[0])
    for ours, kd in zip(*(torch.autograd.grad(sum(t.values()), parameters) for t in (terms, alone)), strict=True):
        close(ours, kd)


def test_bss_attacks_always_as_many_samples_and_counts_each_base_sample_once() -> None:
    """Where base samples are fewer, they stand there again: BatchNorm sees no others."""
    student, teacher = torch.randn(9, CLASSES), torch.randn(9, CLASSES)
    agreed = [1, 4, 6]
    targets = torch.where(student.argmax(1) == teacher.argmax(1), teacher.argmin(1), teacher.argmax(1))
    for i in agreed:
        student[i, 0] = teacher[i, 0] = 9.0 + i
        targets[i] = 0
    for size, expected in ((2, 2), (3, 3), (8, 3), (64, 3)):
        positions, counts = bss.base_samples(student, teacher, targets, size)
        assert len(positions) == len(counts) == min(size, 9)
        assert set(positions.tolist()) <= set(agreed)
        assert sorted(positions[counts].tolist()) == base_by_loops(student, teacher, targets, size)
        assert int(counts.sum()) == len(set(positions[counts].tolist())) == expected
        if size >= 3:
            often = positions.bincount(minlength=9)[agreed]
            assert often.max() - often.min() <= 1


@pytest.mark.parametrize("epoch", [1, 30, 59, 60, 79, 80])
def test_bss_ramps_down_as_the_authors_do_over_80_epochs(epoch: int) -> None:
    teacher, student = teacher_and_student()
    inputs = images(16)
    targets = teacher(inputs).logits.argmax(1)
    method = ready("bss", teacher, student, inputs)
    method.epoch, method.epochs = epoch, 80
    step = step_on(teacher, student, inputs, targets)
    reference = copy.deepcopy(student)(inputs).logits
    terms = method.step(step)
    h = mean(soft_target_loss(reference[i], step.teacher_outputs[0].logits[i]) for i in range(16))
    close(terms["kd"], (max(3 * (1 - epoch / 80), 0) + 1) * h)
    assert ("boundary" in terms) == (2 * (1 - 4 / 3 * epoch / 80) > 0)


def test_bss_makes_the_same_step_for_the_same_seed() -> None:
    teacher, student = teacher_and_student()
    inputs = images(16)
    targets = teacher(inputs).logits.argmax(1)
    results = []
    for _ in range(2):
        own = copy.deepcopy(student)
        method = ready("bss", teacher, own, inputs)
        method.epoch = 1
        torch.manual_seed(3)
        results.append(method.step(step_on(teacher, own, inputs, targets))["boundary"])
    assert torch.equal(*results)


def test_bss_refuses_an_attack_without_steps() -> None:
    with pytest.raises(KDBenchError, match="attack_steps"):
        registry.create("bss", {"attack_steps": 0})


def test_methods_on_inputs_need_images() -> None:
    tokens = torch.zeros(4, 7, dtype=torch.int64)
    with pytest.raises(NotApplicable, match="bss changes images, which network 'tiny' does not read"):
        ready("bss", *teacher_and_student(), tokens)


def test_variants_train_in_bf16_and_resume_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attacked_in_any_case(student: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        half = torch.arange(len(student) // 2)
        return half, half >= 0

    monkeypatch.setattr(bss, "base_samples", attacked_in_any_case)
    trains_in_bf16_and_resumes(tmp_path, "bss")

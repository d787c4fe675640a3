"""backward_kd adds a divergence on samples moved to where the networks differ, as plain loops have it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.inputs import (
    FakeStep,
    agree,
    euclidean,
    images,
    ready,
    same,
    state,
    step_on,
    teacher_and_student,
    trains_in_bf16_and_resumes,
    whole,
)
from support.loops import (
    CLASSES,
    close,
    cross_entropy,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    mean,
    probabilities,
)
from torch import Tensor

from kdbench import Batch, KDBenchError, NotApplicable, registry


def ascended(
    teacher: Any, student: Any, start: Tensor, bounds: tuple[Tensor, Tensor], div: str, norm: str, radius: float
) -> Tensor:
    """One image `[C, H, W]` after five steps of 0.02; networks in eval mode."""
    x = start
    for _ in range(5):
        x = x.detach().requires_grad_()
        s, t = student(x[None]).logits[0], teacher(x[None]).logits[0]
        if div == "mse":
            d = mean((s[c] - t[c]) ** 2 for c in range(CLASSES))
        else:
            d = divergence(probabilities(t), probabilities(s))
        (g,) = torch.autograd.grad(d, x)
        moves = {"l2": x.numel() ** 0.5 * g / euclidean(g), "sign": g.sign(), "none": g}
        x = x.detach() + 0.02 * moves[norm]
        if radius:
            x = torch.minimum(torch.maximum(x, start - radius), start + radius)
        low, high = (bound.reshape(-1) for bound in bounds)
        x = torch.stack([x[c].clamp(float(low[c]), float(high[c])) for c in range(len(x))])
    return x


@pytest.mark.parametrize(
    ("div", "norm", "radius"), [("mse", "l2", 0.0), ("kl", "l2", 0.0), ("mse", "sign", 0.03), ("kl", "none", 0.0)]
)
def test_backward_kd_moves_samples_along_the_gradient_of_the_networks_difference(
    div: str, norm: str, radius: float
) -> None:
    teacher, student = teacher_and_student()
    inputs = images(5)
    method = ready("backward_kd", teacher, student, inputs, div=div, norm=norm, radius=radius)
    moved = method.ascend(inputs, student, teacher)
    frozen = copy.deepcopy(student).eval()
    bounds = inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3))
    for i in range(5):
        close(moved[i], ascended(teacher, frozen, inputs[i], bounds, div, norm, radius))
    assert not torch.equal(moved, inputs)


@pytest.mark.parametrize("div", ["mse", "kl"])
def test_backward_kd_goes_where_the_networks_differ_more(div: str) -> None:
    teacher, student = teacher_and_student()
    inputs = images(16)
    method = ready("backward_kd", teacher, student, inputs, div=div)
    moved = method.ascend(inputs, student, teacher)
    student.eval()
    before, after = (method.divergence(student(x).logits, teacher(x).logits) for x in (inputs, moved))
    assert (after > before).all()


def test_backward_kds_ascent_leaves_statistics_gradients_and_modes_as_they_were() -> None:
    teacher, student = teacher_and_student()
    inputs = images(8)
    method = ready("backward_kd", teacher, student, inputs)
    student.norm.eval()  # as the engine has it where a norm is frozen
    before = state(teacher, student)
    method.ascend(inputs, student, teacher)
    assert same(before, state(teacher, student))
    assert student.training
    assert student.conv.training
    assert not student.norm.training
    assert not teacher.training
    assert all(p.grad is None for network in (teacher, student) for p in network.parameters())


@pytest.mark.equation
@pytest.mark.parametrize("equal_updates", [True, False])
def test_backward_kd_adds_a_divergence_on_the_moved_samples(equal_updates: bool) -> None:
    teacher, student = teacher_and_student()
    inputs = images(6)
    reference, data = copy.deepcopy(student), whole(inputs).whole
    method = ready("backward_kd", teacher, student, inputs, equal_updates=equal_updates, mu=0.7)
    step = step_on(teacher, student, inputs)
    terms = method.step(step)
    names = [sorted(update) for update in step.updates]
    assert names == ([["auxiliary", "ce", "kd"]] if equal_updates else [["ce", "kd"], ["auxiliary"]])

    frozen = copy.deepcopy(reference).eval()
    bounds = inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3))
    moved = torch.stack([ascended(teacher, frozen, x, bounds, "mse", "l2", 0.0) for x in inputs])
    z, t, z2, t2 = reference(inputs).logits, teacher(inputs).logits, reference(moved).logits, teacher(moved).logits
    expected = {
        "ce": 0.1 * mean(cross_entropy(z[i], int(data.targets[i])) for i in range(6)),
        "kd": 0.9 * mean(kl(z[i], t[i], 4.0) for i in range(6)),
        "auxiliary": 0.7 * mean(kl(z2[i], t2[i], 4.0) for i in range(6)),
    }
    agree(terms, student, expected, reference)


def test_backward_kd_is_kd_where_a_batch_has_no_moved_samples() -> None:
    teacher, student = teacher_and_student()
    inputs = images(6)
    method = ready("backward_kd", teacher, student, inputs)
    method.epoch = 1
    step = step_on(teacher, student, inputs)
    own = copy.deepcopy(student)
    alone = registry.create("kd").loss(step.batch, own(inputs), step.teacher_outputs[0])
    agree(method.step(step), student, alone, own)


def test_backward_kd_online_moves_every_fourth_batch_after_the_first_cycle() -> None:
    teacher, student = teacher_and_student()
    inputs = images(4)
    method = ready("backward_kd", teacher, student, inputs, cycle=3 / 24)
    found = {}
    for method.epoch in (1, 3, 4, 24):
        steps = [method.step(step_on(teacher, student, inputs)) for _ in range(6)]
        found[method.epoch] = [number for number, terms in enumerate(steps) if "auxiliary" in terms]
    assert found == {1: [], 3: [], 4: [0, 4], 24: [0, 4]}


def test_backward_kd_offline_keeps_its_samples_for_a_cycle() -> None:
    teacher, student = teacher_and_student()
    inputs = images(20)  # three batches of the data set
    method = ready("backward_kd", teacher, student, inputs, cycle=2 / 24, mode="offline")
    chosen = torch.tensor([17, 2, 9])
    batch = Batch(images(3), torch.tensor([0, 1, 2]), chosen)
    kept = {}
    for method.epoch in range(1, 6):
        expected = method.ascend(inputs, student, teacher)
        for _ in range(2):
            step = FakeStep(batch, [student], [teacher])
            terms = method.step(step)
        kept[method.epoch] = method.samples.clone()
        assert ("auxiliary" in terms) == (method.epoch > 2)
        if method.epoch in (3, 5):  # a cycle begins: made anew with the student of that moment
            torch.testing.assert_close(method.samples.double(), expected, rtol=1e-3, atol=1e-3)
            close(method.logits, teacher(method.samples.double()).logits)
            assert torch.equal(student.seen[-1], method.samples[chosen].double())
        with torch.no_grad():
            student.conv.weight.mul_(1.1)
    assert torch.equal(kept[1], torch.zeros_like(kept[1]))
    assert torch.equal(kept[3], kept[4])
    assert not torch.equal(kept[4], kept[5])
    fresh = ready("backward_kd", teacher, student, inputs, cycle=2 / 24, mode="offline")
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh.samples, method.samples)
    assert fresh.samples.dtype == torch.float16


def test_backward_kds_control_is_noise_of_the_same_size() -> None:
    teacher, student = teacher_and_student()
    inputs = images(6)
    steered, noisy = (ready("backward_kd", teacher, student, inputs, control=control) for control in ("grad", "noise"))
    for method in (steered, noisy):
        method.low, method.high = torch.tensor(-99.0), torch.tensor(99.0)
    moves = [method.ascend(inputs, student, teacher) - inputs for method in (steered, noisy)]
    for one, other in zip(*moves, strict=True):
        close(euclidean(one), euclidean(other))
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0).abs() < 0.5


@pytest.mark.parametrize("name", ["div", "mode", "norm", "control"])
def test_backward_kd_names_the_choices_of_a_wrong_value(name: str) -> None:
    with pytest.raises(KDBenchError, match=f"backward_kd's {name} is 'x': give '"):
        registry.create("backward_kd", {name: "x"})


def test_methods_on_inputs_need_images() -> None:
    tokens = torch.zeros(4, 7, dtype=torch.int64)
    with pytest.raises(NotApplicable, match="backward_kd changes images, which network 'tiny' does not read"):
        ready("backward_kd", *teacher_and_student(), tokens)


@pytest.mark.parametrize(
    "hyperparameters",
    [{"mode": "offline", "equal_updates": False}, {"div": "kl", "control": "noise", "every": 2}],
    ids=str,
)
def test_variants_train_in_bf16_and_resume_to_the_same_bits(tmp_path: Path, hyperparameters: dict[str, Any]) -> None:
    trains_in_bf16_and_resumes(tmp_path, "backward_kd", **hyperparameters)

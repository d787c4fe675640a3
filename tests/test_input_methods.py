"""Methods that change what the networks read: their equations as plain loops over samples, in float64.

The networks are tiny, with BatchNorm, so that a statistic that moves is seen.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loops import (
    CLASSES,
    Whole,
    close,
    cross_entropy,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    mean,
    output,
    probabilities,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, Shapes, registry
from kdbench.connectors import evaluating, pixel_range, require_images, require_memory
from kdbench.methods.inputs import bss, ig_kd
from kdbench.methods.relations import dlkd
from kdbench.tasks.image.data import load
from kdbench.tasks.image.data.loader import DeviceLoader
from kdbench.testing.trial import FP32, Bench

SIDE = 6


class Tiny(nn.Module):
    """A smooth network of one convolution on images of two channels."""

    name = "tiny"

    def __init__(self, width: int = 4, channels: int = 2) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, CLASSES)
        with torch.no_grad():
            self.conv.weight.mul_(2)
            self.classifier.weight.mul_(6)
            self.norm.running_mean.normal_(std=0.1)
        self.shapes = Shapes(CLASSES, width, ((width, SIDE - 2, SIDE - 2),))
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Output:
        self.seen.append(inputs.detach())
        feature = F.softplus(self.norm(self.conv(inputs)))
        embedding = feature.mean((2, 3))
        return Output(self.classifier(embedding), embedding, (feature,))


@dataclass
class FakeStep:
    """The engine's step without an optimizer: `update` notes the terms."""

    batch: Batch
    students: Sequence[Any]
    teachers: Sequence[Any]
    optimizer: Any = None
    updates: list[Mapping[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with torch.no_grad():
            self.teacher_outputs = [copy.deepcopy(teacher)(self.batch.inputs) for teacher in self.teachers]

    def forward(self, student: int = 0, inputs: Tensor | None = None) -> Output:
        return self.students[student](self.batch.inputs if inputs is None else inputs)

    def update(self, terms: Mapping[str, Tensor]) -> None:
        self.updates.append(dict(terms))


def teacher_and_student(likeness: float = 0.3, channels: int = 2) -> tuple[Any, Any]:
    """A frozen teacher in eval mode, and a student in train mode that is near it."""
    teacher = Tiny(channels=channels)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(likeness * torch.randn_like(parameter))
    return teacher.requires_grad_(False).eval(), student.train()


def images(size: int = 8, side: int = SIDE) -> Tensor:
    return torch.randn(size, 2, side, side)


def whole(inputs: Tensor, targets: Tensor | None = None) -> Whole:
    targets = torch.arange(len(inputs)) % CLASSES if targets is None else targets
    return Whole(Batch(inputs, targets, torch.arange(len(inputs))))


def step_on(teacher: Any, student: Any, inputs: Tensor, targets: Tensor | None = None) -> FakeStep:
    return FakeStep(whole(inputs, targets).whole, [student], [teacher])


def ready(name: str, teacher: Any, student: Any, inputs: Tensor, **hyperparameters: Any) -> Any:
    """The method after build and prepare, in the last of 24 epochs."""
    method = registry.create(name, hyperparameters)
    method.build(student, teacher)
    method.prepare(whole(inputs), [teacher])
    method.epoch, method.epochs = 24, 24
    return method


def state(*networks: nn.Module) -> list[Tensor]:
    return [tensor.clone() for network in networks for tensor in network.state_dict().values()]


def same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return all(map(torch.equal, before, after))


def agree(
    terms: Mapping[str, Tensor], network: nn.Module, expected: Mapping[str, Tensor], reference: nn.Module
) -> None:
    """The terms, and the gradients of their sum: of ours in `network`, of the loops' in its copy `reference`."""
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        close(term, expected[name])
    ours = torch.autograd.grad(sum(terms.values()), list(network.parameters()))
    theirs = torch.autograd.grad(sum(expected.values()), list(reference.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)


def euclidean(x: Tensor) -> Tensor:
    return torch.sqrt(sum(value**2 for value in x.flatten()))


# ---------------------------------------------------------------------------------------------- bss


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
    terms = method.step(step_on(teacher, student, inputs, targets))
    assert terms["boundary"] == 0
    assert len(student.seen) == 1
    assert torch.autograd.grad(sum(terms.values()), list(student.parameters()))


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


# ---------------------------------------------------------------------------------------------- backward_kd


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


# ---------------------------------------------------------------------------------------------- ig_kd


def integrated(teacher: Any, x: Tensor, target: int) -> Tensor:
    """sum_c |IG| of one image by Gauss and Legendre's rule with 50 points: `[H, W]`."""
    points, weights = np.polynomial.legendre.leggauss(50)
    total = torch.zeros_like(x)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        between = (point * x).requires_grad_()
        (g,) = torch.autograd.grad(teacher(between[None]).logits[0, target], between)
        total = total + weight * g
    return sum((total * x).abs())


def test_ig_kds_maps_are_integrated_gradients_of_the_labels_logit() -> None:
    teacher, student = teacher_and_student()
    inputs = images(10)  # two batches of the data set
    before = state(teacher)
    method = ready("ig_kd", teacher, student, inputs)
    assert same(before, state(teacher))
    for i in range(10):
        found = ig_kd.attribution_maps(teacher, inputs[i : i + 1], torch.tensor([i % CLASSES]), 50)[0]
        expected = integrated(teacher, inputs[i], i % CLASSES)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)  # captum's weights are float32
        torch.testing.assert_close(method.maps[i].double(), expected / expected.max(), rtol=1e-3, atol=1e-6)


def overlaid(x: Tensor, a: Tensor, power: float, low: Tensor, high: Tensor) -> Tensor:
    """x / 2 + g / 2 in pixels from 0 to 1, of one image `[C, H, W]`, and back to what the networks read."""
    g = torch.stack([value ** (2.0**power) for value in a.flatten()])
    g = ((g - min(g)) / (max(g) - min(g))).reshape(a.shape)
    pixels = [(x[c] - low[c]) / (high[c] - low[c]) for c in range(len(x))]
    return torch.stack([(p / 2 + g / 2) * (high[c] - low[c]) + low[c] for c, p in enumerate(pixels)])


def test_ig_kd_mixes_some_images_with_their_maps_and_distills_on_them() -> None:
    teacher, student = teacher_and_student()
    inputs = images(8)
    reference = copy.deepcopy(student)
    hyperparameters = {"parts": "KD_IG_AT", "overlay_prob": 0.5, "alpha": 0.3, "stage": 1}
    method = ready("ig_kd", teacher, student, inputs, **hyperparameters)
    batch = Batch(inputs[[6, 1, 3, 2, 5]], torch.tensor([2, 1, 3, 2, 1]), torch.tensor([6, 1, 3, 2, 5]))
    step = FakeStep(batch, [student], [teacher])
    torch.manual_seed(1)
    terms = method.step(step)

    torch.manual_seed(1)
    power, lot = (draw.flatten() for draw in torch.rand(2, 5, 1, 1, 1))
    assert 0 < (lot < 0.5).sum() < 5
    low, high = inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3))
    maps = [method.maps[i].double() for i in batch.indices]
    seen = torch.stack(
        [overlaid(x, maps[i], power[i], low, high) if lot[i] < 0.5 else x for i, x in enumerate(batch.inputs)]
    )
    close(student.seen[-1], seen)
    ours, theirs = reference(seen), teacher(batch.inputs)

    def attention(feature: Tensor) -> Tensor:
        a = sum(plane**2 for plane in feature) / len(feature)
        return a / euclidean(a)

    distances = [
        ((attention(s) - attention(t)) ** 2).sum() / 16
        for s, t in zip(ours.features[0], theirs.features[0], strict=True)
    ]
    expected = {
        "ce": 0.7 * mean(cross_entropy(ours.logits[i], int(batch.targets[i])) for i in range(5)),
        "kd": 0.3 * mean(kl(ours.logits[i], theirs.logits[i], 2.5) for i in range(5)),
        "attention": 0.8 * mean(distances),
    }
    agree(terms, student, expected, reference)


@pytest.mark.parametrize(
    ("parts", "names"),
    [("KD", {"ce", "kd"}), ("IG", {"ce"}), ("AT", {"ce", "attention"}), ("IG_AT", {"ce", "attention"})],
)
def test_ig_kds_parts_choose_the_terms(parts: str, names: set[str]) -> None:
    teacher, student = teacher_and_student()
    inputs = images(8)
    method = ready("ig_kd", teacher, student, inputs, parts=parts, overlay_prob=1.0, stage=1)
    step = step_on(teacher, student, inputs)
    terms = method.step(step)
    assert terms.keys() == names
    assert torch.equal(student.seen[-1], inputs) == ("IG" not in parts)
    assert hasattr(method, "maps") == ("IG" in parts)
    assert method.needs == ({"maps"} if "AT" in parts else set())
    weight = 0.99 if parts == "KD" else 1.0  # alpha counts only beside a divergence
    z = copy.deepcopy(student)(student.seen[-1]).logits
    close(terms["ce"], weight * mean(cross_entropy(z[i], i % CLASSES) for i in range(8)))


def test_ig_kd_out_of_line_gives_each_sample_another_images_map_and_answer() -> None:
    teacher, student = teacher_and_student()
    inputs = images(16)
    aligned = ready("ig_kd", teacher, student, inputs)
    torch.manual_seed(0)
    method = ready("ig_kd", teacher, student, inputs, aligned=False, parts="KD_IG_AT", stage=1, alpha=0.5)
    theirs = teacher(inputs)
    orders = [
        [int((bank - row).flatten(1).abs().sum(1).argmin()) for row in shuffled]
        for bank, shuffled in ((aligned.maps, method.maps), (theirs.logits, method.teacher_logits))
    ]
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert orders[0] != orders[1]
    attention = F.normalize(theirs.features[0].pow(2).mean(1).flatten(1), dim=1)
    close(method.teacher_attention, attention[orders[1]])  # logits and attention come from one run
    batch = whole(inputs).whole
    student.eval()
    ours = student(inputs)
    terms = method.loss(batch, ours, theirs)
    close(terms["kd"], 0.5 * mean(kl(ours.logits[i], theirs.logits[orders[1][i]], 2.5) for i in range(16)))


def digits(side: int = 8) -> DeviceLoader:
    return DeviceLoader(load("digits", image_size=side), 32, augment=("pad_crop:1", "flip"), seed=3)


def test_ig_kds_maps_follow_their_images_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    loader = digits()
    method = registry.create("ig_kd", {"parts": "IG", "overlay_prob": 1.0})
    method.low, method.high = pixel_range(loader)
    method.maps = loader.train_images[:, 0].half() / 16  # as if the images were their own maps
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.zeros(*size))  # u = 1
    batch = next(loader.epoch(1))
    brightest = batch.inputs.amax((1, 2, 3), keepdim=True)
    stretched = (batch.inputs - method.low) / (brightest - method.low)
    expected = (batch.inputs + method.low + stretched * (method.high - method.low)) / 2
    torch.testing.assert_close(method.overlay(batch), expected, rtol=1e-3, atol=1e-3)


def test_a_batchs_follow_moves_maps_of_the_size_that_networks_read() -> None:
    loader = digits(96)  # stored at 8 px, resized for each batch
    plain = torch.cat([batch.inputs for batch in loader.batches()])
    batch = next(loader.epoch(1))
    assert batch.follow is not None
    assert plain.shape[-1] == 96
    black = plain.amin()
    moved = batch.follow(plain[batch.indices] - black) + black
    unmoved = (plain[batch.indices] - batch.inputs).abs().mean()
    assert moved.shape == batch.inputs.shape
    assert (moved - batch.inputs).abs().mean() < 0.4 * unmoved  # both ways of resizing blur


def test_ig_kd_keeps_its_maps_out_of_checkpoints() -> None:
    teacher, student = teacher_and_student()
    for options in ({}, {"aligned": False}):
        assert ready("ig_kd", teacher, student, images(), **options).state_dict().keys() == {"low", "high"}


def test_ig_kd_shows_a_constant_map_as_black() -> None:
    assert torch.equal(ig_kd.minmax(torch.full((2, 1, 3, 3), 0.7)), torch.zeros(2, 1, 3, 3))


def test_ig_kd_refuses_parts_and_stages_that_there_are_not() -> None:
    for parts in ("KD_XX", "KD_KD", ""):
        with pytest.raises(KDBenchError, match="ig_kd's parts are"):
            registry.create("ig_kd", {"parts": parts})
    teacher, student = teacher_and_student()
    with pytest.raises(NotApplicable, match="network 'tiny' has 1 stages"):
        ready("ig_kd", teacher, student, images(), parts="AT", stage=2)


# ---------------------------------------------------------------------------------------------- dlkd


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


# ---------------------------------------------------------------------------------------------- what they share


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("bss", {}),
    ("backward_kd", {"mode": "offline", "equal_updates": False}),
    ("backward_kd", {"div": "kl", "control": "noise", "every": 2}),
    ("ig_kd", {"parts": "KD_IG_AT", "ig_steps": 2}),
    ("ig_kd", {"parts": "KD_IG_AT", "ig_steps": 2, "aligned": False}),
    ("dlkd", {"views": 1}),
    ("dlkd", {"views": 2}),
]


@pytest.mark.parametrize(("name", "hyperparameters"), VARIANTS, ids=lambda value: str(value))
def test_variants_train_in_bf16_and_resume_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hyperparameters: dict[str, Any]
) -> None:
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(bss, "base_samples", lambda student, *_: torch.arange(len(student) // 2))  # attack in any case
    bench = Bench(tmp_path, numerics=dataclasses.replace(FP32, precision="bf16"))
    cell = bench.cell(name, **hyperparameters)
    runs = {"straight": 0, "interrupted": 3}  # in which epoch it is stopped
    records = [bench.run([cell], stop_after, folder)[0] for folder, stop_after in runs.items()]
    assert [record["status"] for record in records] == ["done", "done"], records[0]["reason"]
    straight, interrupted = (bench.weights[folder, cell.id] for folder in runs)
    assert all(torch.equal(tensor, interrupted[key]) for key, tensor in straight.items())


def test_the_pixel_range_is_that_of_each_channel() -> None:
    inputs = images(20)
    low, high = pixel_range(whole(inputs))
    close(low, inputs.amin((0, 2, 3))[:, None, None])
    close(high, inputs.amax((0, 2, 3))[:, None, None])


def test_evaluating_gives_each_module_its_mode_back_even_after_an_error() -> None:
    def fail() -> None:
        with evaluating(network):
            assert not any(module.training for module in network.modules())
            raise ZeroDivisionError

    network = Tiny().train()
    network.norm.eval()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in network.modules()] == [True, True, False, True]


@pytest.mark.parametrize("name", ["bss", "backward_kd", "ig_kd", "dlkd"])
def test_methods_on_inputs_need_images(name: str) -> None:
    tokens = torch.zeros(4, 7, dtype=torch.int64)
    with pytest.raises(NotApplicable, match=f"{name} changes images, which network 'tiny' does not read"):
        ready(name, *teacher_and_student(), tokens)


def test_what_would_fill_the_memory_is_refused_with_the_way_out() -> None:
    require_images("some", Tiny(), whole(images()))
    require_memory("some", Tiny(), 2**32, "leave it")
    with pytest.raises(NotApplicable, match=r"some would keep 5.0 GiB .* network 'tiny' reads: leave it"):
        require_memory("some", Tiny(), 5 * 2**30, "leave it")

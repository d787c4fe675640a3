"""mmkd weighs its teachers by networks whose gradient goes through the student's next steps."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import goldens
from support.loops import (
    CLASSES,
    Whole,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    network,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Output, registry


def filled(golden: Mapping[str, Tensor], count: int, student: Tensor, **options: Any) -> Any:
    """mmkd with the vectors' parameters."""
    method = registry.create("mmkd", options)
    teachers = [goldens.network([golden[f"feat_t_{k}"]]) for k in range(count)]
    method.build(goldens.network([student]), teachers)
    method.prepare(Whole(goldens.batch(golden["target"])), teachers)
    for net, name in ((method.weigh_logits, "logit_weight"), (method.weigh_features, "feat_weight")):
        net.load_state_dict({theirs: golden[f"param__{name}.{official(theirs)}"] for theirs in net.state_dict()})
    for k, embed in enumerate(method.embeds):
        goldens.load_parameters(embed, golden, f"match.regressor{k}.transfer.")
    return method


def official(name: str) -> str:
    """A meta network's parameter in the official code."""
    return name.replace("0.", "layer.").replace("2.", "all_act.")


def meta_gradients_agree(method: Any, gradients: Sequence[Tensor], golden: Mapping[str, Tensor], prefix: str) -> None:
    names = [f"logit_weight.{official(name)}" for name, _ in method.weigh_logits.named_parameters()]
    names += [f"feat_weight.{official(name)}" for name, _ in method.weigh_features.named_parameters()]
    for name, gradient in zip(names, gradients, strict=True):
        goldens.close(gradient, golden[f"{prefix}{name}"])


@pytest.mark.equation
def test_mmkds_inner_objective_agrees_with_the_official_code_in_value_and_gradient() -> None:
    golden = goldens.load("mmkd")
    goldens.require(golden["logits_s"], golden["feat_s"])
    method = filled(golden, 3, golden["feat_s"])
    student, teachers = goldens.output(golden["logits_s"], [golden["feat_s"]]), goldens.teachers_of(golden, 3)
    weights = method.weights(student, teachers)
    goldens.close(weights[0].T, golden["out_w_logit"])
    goldens.close(weights[1].T, golden["out_w_feat"])
    terms = method.matching(student, teachers, method.embeds(student, teachers), weights)
    goldens.close(terms["kd"], golden["loss_kd"])
    goldens.close(terms["feature"] / 100, golden["loss_inter"])
    total = F.cross_entropy(student.logits, golden["target"]) + sum(terms.values())
    goldens.close(total, golden["loss_total"])
    inputs = {name: golden[name] for name in ("logits_s", "feat_s")}
    modules = {f"match.regressor{k}.transfer.": embed for k, embed in enumerate(method.embeds)}
    meta = torch.autograd.grad(total, method.adam.param_groups[0]["params"], retain_graph=True)
    meta_gradients_agree(method, meta, golden, "gradp__")
    goldens.gradients_agree(total, inputs, modules, golden)


def test_mmkds_loss_is_the_inner_objective_and_never_moves_the_meta_networks() -> None:
    golden = goldens.load("mmkd")
    goldens.require(golden["logits_s"], golden["feat_s"])
    method = filled(golden, 3, golden["feat_s"])
    student, teachers = goldens.output(golden["logits_s"], [golden["feat_s"]]), goldens.teachers_of(golden, 3)
    terms = method.loss(goldens.batch(golden["target"]), student, teachers)
    goldens.close(sum(terms.values()), golden["loss_total"])
    meta = method.adam.param_groups[0]["params"]
    assert all(p.requires_grad for p in meta)  # they count as trained
    assert all(g is None for g in torch.autograd.grad(sum(terms.values()), meta, allow_unused=True))


class Toy(nn.Module):
    """The student of the vectors: 7 numbers to a map [3, 2, 2] and logits."""

    def __init__(self, classes: int = goldens.CLASSES) -> None:
        super().__init__()
        self.l1, self.l2 = nn.Linear(7, 12), nn.Linear(12, classes)

    def forward(self, inputs: Tensor) -> Output:
        hidden = torch.tanh(self.l1(inputs))
        return Output(self.l2(hidden), hidden, (hidden.reshape(-1, 3, 2, 2),))


@pytest.mark.equation
def test_mmkds_meta_gradient_agrees_with_the_official_code() -> None:
    golden = goldens.load("mmkd_meta")
    student = Toy()
    goldens.load_parameters(student, golden, "student.")
    method = filled(golden, 2, torch.zeros(8, 3, 2, 2))
    optimizer = torch.optim.SGD([*student.parameters(), *method.embeds.parameters()], 0.05, 0.9, weight_decay=5e-4)
    for name, p in student.named_parameters():
        optimizer.state[p]["momentum_buffer"] = golden[f"param__momentum.student.{name}"]
    for k, embed in enumerate(method.embeds):
        for name, p in embed.named_parameters():
            optimizer.state[p]["momentum_buffer"] = golden[f"param__momentum.match.regressor{k}.transfer.{name}"]
    data = Batch(golden["x"], golden["target"], torch.arange(8))
    step = SimpleNamespace(students=[student], optimizer=optimizer)
    outer = method.look_ahead(step, data, goldens.teachers_of(golden, 2))
    goldens.close(outer, golden["loss_outer"])
    gradients = torch.autograd.grad(outer, method.adam.param_groups[0]["params"])
    meta_gradients_agree(method, gradients, golden, "gradp__")
    meta_gradients_agree(method, gradients, golden, "out_unrolled_grad__")


class Lesson:
    """A toy student and two toy teachers behind the interface of updates; full batches hold 8 of 32 samples."""

    def __init__(self, optimizer: str = "SGD", **options: Any) -> None:
        torch.manual_seed(3)
        self.students = [Toy(CLASSES)]
        self.teachers = [Toy(CLASSES).requires_grad_(False) for _ in range(2)]
        self.method = registry.create("mmkd", {"weight": 1.0, **options})
        self.method.build(network((3, 2, 2)), [network((3, 2, 2))] * 2)
        self.all = Batch(torch.randn(32, 7), torch.arange(32) % CLASSES, torch.arange(32))
        self.method.prepare(Whole(self.all), self.teachers)
        parameters = [*self.students[0].parameters(), *self.method.parameters()]
        settings = {"momentum": 0.9, "nesterov": True} if optimizer == "SGD" else {}
        self.optimizer = getattr(torch.optim, optimizer)(parameters, 0.2, weight_decay=1e-3, **settings)
        self.meta = self.method.adam.param_groups[0]["params"]

    def forward(self) -> Output:
        return self.students[0](self.batch.inputs)

    def update(self, terms: Mapping[str, Tensor]) -> None:
        self.optimizer.zero_grad()
        total(terms).backward()
        self.optimizer.step()

    def run(self, start: int = 0, end: int = 8) -> Lesson:
        part = slice(start, end)
        self.batch = Batch(self.all.inputs[part], self.all.targets[part], self.all.indices[part])
        self.teacher_outputs = [teacher(self.batch.inputs) for teacher in self.teachers]
        self.method.step(self)
        return self


def weights_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def real_steps(lesson: Lesson, nesterov: bool, read: list[Output]) -> Tensor:
    """CE after the look-ahead's steps, taken by a real optimizer on copies, with the meta networks as they are.

    `read` are the student's outputs that the meta networks read, a constant for their gradient; filled where empty.
    """
    data, teachers = lesson.batch, lesson.teacher_outputs
    method, student = copy.deepcopy(lesson.method), copy.deepcopy(lesson.students[0])
    old = [*lesson.students[0].parameters(), *lesson.method.embeds.parameters()]
    new = [*student.parameters(), *method.embeds.parameters()]
    optimizer = torch.optim.SGD(new, 0.2)
    if isinstance(lesson.optimizer, torch.optim.SGD):
        optimizer = torch.optim.SGD(new, 0.2, momentum=0.9, weight_decay=1e-3, nesterov=nesterov)
        for before, after in zip(old, new, strict=True):
            optimizer.state[after]["momentum_buffer"] = lesson.optimizer.state[before]["momentum_buffer"].clone()
    for step in range(3):
        seen = student(data.inputs)
        if len(read) == step:
            read.append(seen)
        weights = method.weights(read[step], teachers).detach()
        terms = method.matching(seen, teachers, method.embeds(seen, teachers), weights)
        optimizer.zero_grad()
        (F.cross_entropy(seen.logits, data.targets) if step == 2 else total(terms)).backward()
        optimizer.step()
    return F.cross_entropy(student(data.inputs).logits, data.targets).detach()


@pytest.mark.parametrize(
    ("optimizer", "nesterov"), [("SGD", True), ("SGD", False), ("AdamW", True)], ids=["nesterov", "heavy ball", "adamw"]
)
def test_mmkds_meta_gradient_is_the_derivative_through_real_steps(optimizer: str, nesterov: bool) -> None:
    lesson = Lesson(optimizer, nesterov_virtual=nesterov).run().run(8, 16)
    outer = lesson.method.look_ahead(lesson, lesson.batch, lesson.teacher_outputs)
    read: list[Output] = []
    close(outer, real_steps(lesson, nesterov, read))
    gradients = torch.autograd.grad(outer, lesson.meta)
    for p, gradient in zip(lesson.meta, gradients, strict=True):
        direction, values = torch.randn_like(p), []
        for way in (1e-4, -1e-4):
            with torch.no_grad():
                p.add_(way * direction)
            values.append(real_steps(lesson, nesterov, read))
            with torch.no_grad():
                p.sub_(way * direction)
        slope = (values[0] - values[1]) / 2e-4
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-10)


def test_mmkds_meta_step_leaves_the_student_its_optimizer_and_its_statistics_as_they_were() -> None:
    lesson = Lesson().run()
    held = [*lesson.students[0].parameters(), *lesson.method.embeds.state_dict().values()]
    held += [state["momentum_buffer"] for state in lesson.optimizer.state.values()]
    before, meta = weights_of(held), weights_of(lesson.meta)
    lesson.method.meta_step(lesson)
    assert same(before, held)
    assert not same(meta, lesson.meta)
    assert all(p.grad is None for p in lesson.meta)


def test_mmkds_meta_networks_move_every_few_batches_and_after_the_last() -> None:
    lesson = Lesson(meta_freq=3)
    moved = []
    for epoch in (1, 2):
        lesson.method.epoch = epoch
        for start, end in ((0, 7), (7, 13), (13, 19), (19, 25), (25, 31)):  # one sample was left over and dropped
            meta = weights_of(lesson.meta)
            moved.append(not same(meta, lesson.run(start, end).meta))
    assert moved == [True, False, False, True, True] * 2


def test_mmkds_buffer_takes_the_first_batches_and_then_only_what_the_student_gets_wrong() -> None:
    lesson = Lesson(buffer=12)
    method = lesson.method
    sure = F.one_hot(lesson.all.targets, CLASSES).double()
    for start, end in ((0, 8), (8, 16)):
        part = slice(start, end)
        data = Batch(lesson.all.inputs[part], lesson.all.targets[part], lesson.all.indices[part])
        method.remember(data, sure[part])
    assert torch.equal(method.hard_inputs, lesson.all.inputs[:12])
    assert torch.equal(method.hard_targets, lesson.all.targets[:12])
    data = Batch(lesson.all.inputs[16:24], lesson.all.targets[16:24], lesson.all.indices[16:24])
    method.remember(data, sure[16:24])
    assert torch.equal(method.hard_inputs, lesson.all.inputs[:12])
    wrong = sure[16:24].clone()
    wrong[:3] = wrong[:3].roll(1, 1)
    method.remember(data, wrong)
    new = [i for i in range(12) if not torch.equal(method.hard_inputs[i], lesson.all.inputs[i])]
    assert len(new) == 3
    images = {
        tuple(image.tolist()): int(target) for image, target in zip(data.inputs[:3], data.targets[:3], strict=True)
    }
    assert {tuple(method.hard_inputs[i].tolist()): int(method.hard_targets[i]) for i in new} == images


def test_mmkd_fills_a_smaller_batchs_gram_matrices_up_with_zeros() -> None:
    lesson = Lesson()
    data = [network(lesson.all.inputs[:5]) for network in (*lesson.teachers, lesson.students[0])]
    rows = []
    for each in data:
        flat = each.features[0].flatten(1)
        gram = torch.stack([torch.stack([(flat[i] * flat[j]).sum() for j in range(5)]) for i in range(5)])
        rows.append(torch.cat([gram, torch.zeros(5, 3)], 1))
    expected = lesson.method.weigh_features(torch.cat(rows, 1))
    close(lesson.method.weights(data[2], data[:2])[1], expected.T)


def test_mmkd_goes_on_from_its_state_to_the_same_meta_networks() -> None:
    straight = Lesson().run()
    resumed = Lesson()
    for one, other in ((resumed.students[0], straight.students[0]), (resumed.method, straight.method)):
        assert one.state_dict().keys() == other.state_dict().keys()
        one.load_state_dict(copy.deepcopy(other.state_dict()))
    resumed.optimizer.load_state_dict(copy.deepcopy(straight.optimizer.state_dict()))
    for lesson in (straight, resumed):
        lesson.method.epoch = 2
        torch.manual_seed(5)
        lesson.run(8, 16)
    assert same(straight.meta, resumed.meta)
    assert straight.method.held == resumed.method.held == 16


def test_mmkd_without_a_buffer_looks_ahead_on_the_current_batch() -> None:
    lesson = Lesson(buffer=0)
    assert lesson.method.hard_inputs.numel() == 0
    seen: list[Batch] = []
    lesson.method.look_ahead = lambda step, data, teacher: seen.append(data) or sum(p.sum() for p in lesson.meta)
    lesson.run()
    assert seen[0] is lesson.batch


@pytest.mark.parametrize("option", [{"meta_freq": 0}, {"inner_steps": 0}])
def test_mmkd_refuses_no_meta_steps_and_no_inner_steps(option: dict[str, int]) -> None:
    with pytest.raises(KDBenchError, match="mmkd's meta_freq and inner_steps are at least 1"):
        registry.create("mmkd", option)


def test_mmkd_has_no_kd_scale_which_its_weights_that_sum_to_one_would_not_heed() -> None:
    with pytest.raises(KDBenchError, match="kd_scale"):
        registry.create("mmkd", {"kd_scale": "unit"})

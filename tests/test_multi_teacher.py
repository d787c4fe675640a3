"""ebkd, aekd, fitnet_mkd, mmkd and hpm_kd: against the authors' code where vectors of it exist, else against loops."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import goldens
import pytest
import torch
import torch.nn.functional as F
from loops import (
    BATCH,
    CLASSES,
    Whole,
    agree,
    batch,
    close,
    cross_entropy,
    dataset,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    network,
    output,
    probabilities,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, registry
from kdbench.connectors import Unrolled
from kdbench.methods.multi_teacher.aekd import smallest_mix
from kdbench.methods.multi_teacher.hpm_kd import heuristic_attention, heuristic_temperature

FAMILY = ("aver_mkd", "ebkd", "aekd", "camkd", "fitnet_mkd", "mmkd")


def teachers_of(golden: Mapping[str, Tensor], count: int) -> list[Output]:
    return [goldens.output(golden[f"logits_t_{k}"], [golden[f"feat_t_{k}"]]) for k in range(count)]


@pytest.mark.parametrize("name", FAMILY)
def test_every_method_of_the_family_takes_a_kd_scale_and_refuses_a_wrong_one(name: str) -> None:
    registry.create(name, {"kd_scale": "unit"})
    with pytest.raises(KDBenchError, match=f"{name}'s kd_scale is 'half'"):
        registry.create(name, {"kd_scale": "half"})


@pytest.mark.parametrize("option", [{"assistants": -1}, {"attention": "soft"}, {"schedule": "linear"}])
def test_hpm_kd_refuses_an_option_that_it_does_not_know(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"hpm_kd.*{next(iter(option.values()))}"):
        registry.create("hpm_kd", option)


# ---------------------------------------------------------------------------------------------- ebkd


def test_ebkd_agrees_with_the_ca_mkd_code_in_value_and_gradient() -> None:
    golden = goldens.load("ebkd")
    goldens.require(golden["logits_s"])
    data, student = goldens.batch(golden["target"]), goldens.output(golden["logits_s"])
    terms = registry.create("ebkd").loss(data, student, teachers_of(golden, 3))
    goldens.close(terms["ce"], golden["loss_ce"])
    goldens.close(terms["kd"], golden["loss_kd"])
    goldens.close(sum(terms.values()), golden["loss_total"])
    goldens.gradients_agree(sum(terms.values()), {"logits_s": golden["logits_s"]}, {}, golden)


@pytest.mark.parametrize(("kd_scale", "whole"), [("official", 2 / 3), ("unit", 1.0)])
def test_ebkd_weighs_each_sample_by_the_share_of_entropy(kd_scale: str, whole: float) -> None:
    z, teachers, data = logits(), [output() for _ in range(3)], batch()
    kd = torch.zeros(())
    for i in range(BATCH):
        entropies = [-sum(p * torch.log(p) for p in probabilities(teacher.logits[i].detach())) for teacher in teachers]
        for entropy, teacher in zip(entropies, teachers, strict=True):
            weight = (1 - entropy / sum(entropies)) / 2 * whole
            kd = kd + weight * kl(z[i], teacher.logits[i], 4.0) / BATCH
    expected = {"ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)), "kd": kd}
    agree(registry.create("ebkd", {"kd_scale": kd_scale}).loss(data, output(z), teachers), expected, [z])


def test_ebkd_survives_probabilities_that_underflow_and_teachers_without_any_entropy() -> None:
    z, sure = logits(), torch.zeros(BATCH, CLASSES)
    sure[:, 0] = 4000.0
    for teachers in ([output(sure)] * 2, [output(sure), output(logits())]):
        terms = registry.create("ebkd").loss(batch(), output(z), teachers)
        assert torch.autograd.grad(terms["kd"], z)[0].isfinite().all()
    alike, average = (
        registry.create(name, {"kd_scale": "unit"}).loss(batch(), output(z), [output(sure)] * 2)
        for name in ("ebkd", "aver_mkd")
    )
    agree(alike, average, [z])


# ---------------------------------------------------------------------------------------------- aekd


@pytest.mark.parametrize("tolerance", [0.1, 0.4, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_aekds_weights_meet_the_conditions_of_the_smallest_mixture(count: int, tolerance: float) -> None:
    bound = min(max(tolerance, 1 / count), 1.0)
    for _ in range(10):
        vectors = torch.randn(count, 4) * torch.rand(count, 1) + torch.randn(4)
        weights = smallest_mix(vectors, tolerance)
        assert float(weights.sum()) == pytest.approx(1)
        assert ((weights >= 0) & (weights <= bound + 1e-9)).all()
        slopes = vectors @ (weights @ vectors)  # half the derivative of the squared length
        free = (weights > 1e-6) & (weights < bound - 1e-6)
        level = slopes[free].mean() if free.any() else slopes[weights > 1e-6].max()
        assert torch.allclose(slopes[free], level, atol=1e-7)
        assert (slopes[weights <= 1e-6] >= level - 1e-7).all()  # more of these makes the mixture longer
        if free.any():
            assert (slopes[weights >= bound - 1e-6] <= level + 1e-7).all()  # and so does less of these


def test_aekds_weights_are_even_between_equal_and_between_vanishing_gradients() -> None:
    for vectors in (torch.ones(3, 4), torch.zeros(3, 4)):
        for normalize in (False, True):
            torch.testing.assert_close(
                smallest_mix(vectors, 0.6, normalize), torch.full((3,), 1 / 3), rtol=0, atol=1e-5
            )


def two_weights(a: Tensor, b: Tensor, tolerance: float) -> list[Tensor]:
    """The minimum of |w a + (1 - w) b|^2, which for two vectors is a parabola's."""
    difference = a - b
    w = (-(b * difference).sum() / (difference * difference).sum()).clamp(1 - tolerance, tolerance)
    return [w, 1 - w]


@pytest.mark.parametrize("tolerance", [0.6, 1.0])
def test_aekd_mixes_divergences_by_their_gradients_in_the_logits(tolerance: float) -> None:
    z, teachers, data = logits(), [output() for _ in range(2)], batch()
    divergences = [mean(kl(z[i], teacher.logits[i], 4.0) for i in range(BATCH)) for teacher in teachers]
    gradients = [torch.autograd.grad(each, z, retain_graph=True)[0].mean(0) for each in divergences]
    weights = two_weights(*gradients, tolerance)
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "kd": sum((w * each for w, each in zip(weights, divergences, strict=True)), torch.zeros(())),
    }
    terms = registry.create("aekd", {"tolerance": tolerance}).loss(data, output(z), teachers)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], rtol=1e-7, atol=0)
    ours, theirs = (torch.autograd.grad(sum(each.values()), z)[0] for each in (terms, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_aekd_without_room_for_disagreement_is_the_average() -> None:
    z, teachers = logits(), [output() for _ in range(3)]
    tight, average = (
        registry.create(name, options).loss(batch(), output(z), teachers)
        for name, options in (("aekd", {"tolerance": 1 / 3}), ("aver_mkd", {}))
    )
    agree(tight, average, [z])


def embedded(conv: nn.Module, norm: nn.Module, feature: Tensor) -> Tensor:
    """ReLU(BN(conv1x1(map))), BatchNorm with the batch's statistics."""
    u = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], feature) + conv.bias[:, None, None]
    centred = u - u.mean((0, 2, 3), keepdim=True)
    u = centred / torch.sqrt((centred**2).mean((0, 2, 3), keepdim=True) + 1e-5)
    return torch.relu(u * norm.weight[:, None, None] + norm.bias[:, None, None])


def hinted(name: str, **options: Any) -> tuple[Any, Output, list[Output], list[Tensor]]:
    """A method with hints in its second epoch, networks' outputs, and the hint losses by hand."""
    method = registry.create(name, options)
    shapes = ((3, 4, 4), (2, 2, 2)), ((5, 4, 4), (4, 2, 2)), ((5, 4, 4), (6, 2, 2))
    method.build(network(*shapes[0]), [network(*each) for each in shapes[1:]])
    method.epoch = 2
    student = output(features=[torch.randn(BATCH, *shape).requires_grad_() for shape in shapes[0]])
    teachers = [output(features=[torch.rand(BATCH, *shape) for shape in each]) for each in shapes[1:]]
    maps = [embedded(part.hint.conv, part.hint.bn, student.features[1]) for part in method.hints]
    losses = [
        mean(((u[i] - t.features[1][i]) ** 2).mean() for i in range(BATCH)) for u, t in zip(maps, teachers, strict=True)
    ]
    return method, student, teachers, losses


@pytest.mark.parametrize("normalize", [None, False])
def test_aekd_on_features_mixes_hints_by_their_gradients_in_the_second_map(normalize: bool | None) -> None:
    method, student, teachers, losses = hinted("aekd", on="features", normalize=normalize)
    gradients = [torch.autograd.grad(each, student.features[1], retain_graph=True)[0] for each in losses]
    pulls = [gradient.flatten(1).mean(0) for gradient in gradients]
    if normalize is None:  # as coded: directions, and the weights divided by the lengths afterwards
        lengths = [pull.norm() for pull in pulls]
        w = [
            x / n
            for x, n in zip(
                two_weights(*[p / n for p, n in zip(pulls, lengths, strict=True)], 0.6), lengths, strict=True
            )
        ]
        weights = [each / sum(w) for each in w]
    else:
        weights = two_weights(*pulls, 0.6)
    terms = method.loss(batch(), student, teachers)
    expected = 100 * sum(w.detach() * each for w, each in zip(weights, losses, strict=True))
    torch.testing.assert_close(terms["feature"], expected, rtol=1e-7, atol=0)
    tensors = [student.features[1], *method.parameters()]
    for ours, theirs in zip(
        *(torch.autograd.grad(each, tensors) for each in (terms["feature"], expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_aekd_says_which_student_has_too_many_teachers() -> None:
    with pytest.raises(NotApplicable, match="at most 7 teachers, but student 'some' has 8"):
        registry.create("aekd").build(network(), [network()] * 8)


# ---------------------------------------------------------------------------------------------- fitnet_mkd


def test_fitnet_mkd_is_the_average_and_the_mean_of_the_teachers_hints() -> None:
    method, student, teachers, losses = hinted("fitnet_mkd")
    data = batch()
    average = registry.create("aver_mkd").loss(data, student, teachers)
    terms = method.loss(data, student, teachers)
    agree(
        terms, {**average, "feature": 100 * mean(losses)}, [student.logits, student.features[1], *method.parameters()]
    )


@pytest.mark.parametrize(("name", "options"), [("fitnet_mkd", {}), ("aekd", {"on": "features"})])
def test_hints_start_in_the_second_epoch(name: str, options: dict[str, Any]) -> None:
    method, student, teachers, _ = hinted(name, **options)
    method.epoch = 1
    assert method.loss(batch(), student, teachers).keys() == {"ce", "kd"}


# ---------------------------------------------------------------------------------------------- mmkd


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


def test_mmkds_inner_objective_agrees_with_the_official_code_in_value_and_gradient() -> None:
    golden = goldens.load("mmkd")
    goldens.require(golden["logits_s"], golden["feat_s"])
    method = filled(golden, 3, golden["feat_s"])
    student, teachers = goldens.output(golden["logits_s"], [golden["feat_s"]]), teachers_of(golden, 3)
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
    student, teachers = goldens.output(golden["logits_s"], [golden["feat_s"]]), teachers_of(golden, 3)
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
    outer = method.look_ahead(step, data, teachers_of(golden, 2))
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


def test_unrolled_steps_are_those_of_sgd_with_dampening_and_from_no_momentum_yet() -> None:
    net, inputs = nn.Linear(3, 2), torch.randn(4, 3)
    net.bias.requires_grad_(False)
    twin = copy.deepcopy(net)
    settings = {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.02}
    unrolled = Unrolled(net, torch.optim.SGD(net.parameters(), **settings))
    optimizer = torch.optim.SGD(twin.parameters(), **settings)
    for _ in range(3):
        unrolled.descend(unrolled(inputs).pow(2).sum())
        optimizer.zero_grad()
        twin(inputs).pow(2).sum().backward()
        optimizer.step()
    assert unrolled.weights.keys() == {"weight"}
    close(unrolled.weights["weight"], twin.weight)


# ---------------------------------------------------------------------------------------------- hpm_kd


def test_hpm_kds_heuristics_agree_with_deepbridge() -> None:
    golden = goldens.load("hpm_kd")
    parts = (golden["teacher_probs"], golden["student_probs"], golden["performance"])
    goldens.close(heuristic_attention(*parts), golden["out_weights_learned"])
    goldens.close(heuristic_attention(*parts, 0.5), golden["out_weights_learned_epoch50of100"])
    states = [(float(epoch), kl_, theirs - ours) for epoch, kl_, ours, theirs in golden["temp_states"]]
    goldens.close(torch.stack([heuristic_temperature(*state) for state in states]), golden["out_temp_heuristic"])


def test_hpm_kds_heuristic_weights_stay_finite_where_no_teacher_is_right_or_agrees() -> None:
    teachers = torch.eye(2)[:, None].expand(2, BATCH, 2)
    weights = heuristic_attention(teachers, torch.full((BATCH, 2), 0.5), torch.zeros(2))
    close(weights, torch.full((2,), 0.5))


def hpm_kd(link: str = "student", epoch: int = 1, **options: Any) -> tuple[Any, Batch]:
    """The method in its link, in epoch `epoch` of 20, with images `[B, 3, 4, 4]`."""
    method = registry.create("hpm_kd", options)
    data = Batch(torch.randn(BATCH, 3, 4, 4), torch.arange(BATCH) % CLASSES, torch.arange(BATCH))
    method.build(network(), [network()] * 3)
    method.prepare(Whole(data), [lambda inputs: output(torch.zeros(len(inputs), CLASSES))] * 3)
    method.phase, method.epoch, method.epochs = link, epoch, 20
    return method, data


def test_hpm_kd_teaches_by_a_mixture_of_logits_that_is_learned_with_it() -> None:
    method, data = hpm_kd("assistant_1")
    method.eval()  # no dropout
    z, teachers = logits(), [output() for _ in range(3)]
    ce, kd, plain = [], [], []
    for i in range(BATCH):
        x = torch.cat([data.inputs[i].flatten(), method.attend.embeddings])
        for layer in method.attend.net:
            x = layer.weight @ x + layer.bias if isinstance(layer, nn.Linear) else layer(x)
        a = probabilities(x)
        target = sum(each * teacher.logits[i].detach() for each, teacher in zip(a, teachers, strict=True))
        ours, theirs = probabilities(z[i], 6.0), probabilities(target, 6.0)
        kd.append(36 * sum(t * torch.log(t / s) for t, s in zip(theirs, ours, strict=True)))
        ce.append(cross_entropy(z[i], int(data.targets[i])))
        plain.append(sum(each * torch.log(each) for each in a))
    expected = {"attention": 0.01 * mean(plain), "ce": 0.3 * mean(ce), "kd": 0.7 * mean(kd)}
    teachers = [output(teacher.logits.detach()) for teacher in teachers]
    agree(method.loss(data, output(z), teachers), expected, [z, *method.parameters()])


def test_hpm_kds_further_links_learn_from_the_link_above_alone() -> None:
    method, data = hpm_kd()
    z, above = logits(), output(logits().detach())
    terms = method.loss(data, output(z), [above])
    expected = {
        "ce": 0.3 * mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "kd": 0.7 * mean(kl(z[i], above.logits[i], 6.0) for i in range(BATCH)),
    }
    agree(terms, expected, [z])


@pytest.mark.parametrize("assistants", [0, 1, 2])
def test_hpm_kds_chain_trains_one_link_after_the_other(assistants: int) -> None:
    method = registry.create("hpm_kd", {"assistants": assistants})
    assert method.members() == ("student", *["assistant"] * assistants)
    taught = []
    for phase in method.phases():
        method.phase = phase.name
        step = SimpleNamespace(
            batch=None, teacher_outputs=["teachers"], forward=lambda k: f"network {k}", update=lambda terms: None
        )
        method.loss = lambda data, student, teacher: taught.append((teacher[0], student)) or {}
        method.step(step)
        assert phase.members == (int(taught[-1][1].removeprefix("network ")),)
    names = ["teachers", *(f"network {k}" for k in range(1, assistants + 1)), "network 0"]
    assert taught == list(itertools.pairwise(names))


def test_hpm_kds_temperature_falls_along_a_cosine_in_each_link() -> None:
    temperatures = {}
    for link, start in (("assistant_1", 1), ("student", 11)):
        method, _ = hpm_kd(link)
        for epoch in range(10):
            method.epoch = start + epoch
            temperatures[link, epoch] = float(method.temperature(0))
            assert temperatures[link, epoch] == pytest.approx(4 + 2 * math.cos(math.pi * epoch / 10))
    assert temperatures["assistant_1", 0] == temperatures["student", 0] == 6


def test_hpm_kds_temperature_follows_the_loss_or_its_slope() -> None:
    z, above = logits(), [output(logits().detach())]
    for schedule, share in (
        ("loss", lambda losses: (losses[-1] - min(losses)) / (max(losses) - min(losses))),
        ("slope", lambda losses: 1 - math.exp(-abs(losses[-1] - losses[-2]))),
    ):
        method, data = hpm_kd(schedule=schedule)
        losses: list[float] = []
        for scale in (1.0, 3.0, 2.0, 0.5, 1.5):
            if len(losses) < 2:  # not known yet
                assert float(method.temperature(0)) == 4
            else:
                assert float(method.temperature(0)) == pytest.approx(2 + 4 * share(losses))
            losses.append(float(total(method.loss(data, output(scale * z), above)).detach()))


def test_hpm_kds_heuristic_temperature_reads_the_epoch_before() -> None:
    method, data = hpm_kd(schedule="heuristic", epoch=18)
    assert float(method.temperature(0)) == pytest.approx(3 * (1 - 0.3 * 0.7))  # nothing measured yet
    right, wrong = (5 * F.one_hot((data.targets + shift) % CLASSES, CLASSES).double() for shift in (0, 1))
    method.loss(data, output(wrong), [output(right)])
    method.epoch = 19
    method.loss(data, output(wrong), [output(right)])
    assert float(method.temperature(0)) == pytest.approx(3 * 1.2 * 1.1 * (1 - 0.3 * 0.8))  # far apart, far behind


def test_hpm_kds_heuristic_attention_knows_each_teachers_accuracy() -> None:
    targets = torch.arange(8) % CLASSES
    method = registry.create("hpm_kd", {"attention": "heuristic"})
    right, wrong = (F.one_hot((targets + shift) % CLASSES, CLASSES).double() for shift in (0, 1))
    method.prepare(dataset(targets), [lambda inputs, z=z: output(z) for z in (right, wrong)])
    close(method.accuracies.double(), torch.tensor([1.0, 0.0]))
    method.phase = "student"
    data, z = Batch(torch.zeros(8, 1), targets, torch.arange(8)), logits(size=8)
    terms = method.loss(data, output(z), [output(right), output(wrong)])
    weights = heuristic_attention(torch.stack([right, wrong]).softmax(2), z.detach().softmax(1), method.accuracies, 0.0)
    mixed = weights[0] * right + weights[1] * wrong
    assert terms.keys() == {"ce", "kd"}
    close(terms["kd"], 0.7 * mean(kl(z[i], mixed[i], 6.0) for i in range(8)))


def test_hpm_kd_pools_large_images_for_its_attention() -> None:
    method = registry.create("hpm_kd")
    images = Batch(torch.randn(4, 3, 64, 48), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    method.prepare(Whole(images), [network()] * 2)
    assert method.attend.net[0].in_features == 3 * 32 * 32 + 2 * 16
    weights = method.attend(images.inputs)
    close(weights.sum(1), torch.ones(4))


def test_hpm_kd_says_which_network_reads_no_images() -> None:
    with pytest.raises(NotApplicable, match="which network 'some' does not read"):
        registry.create("hpm_kd").prepare(dataset(torch.arange(8) % CLASSES), [network()] * 2)

"""Methods that train several networks or several heads of one: equations, who trains when, what is deployed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import goldens
import pytest
import torch
import torch.nn.functional as F
from loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    cross_entropy,
    divergence,
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
from kdbench.methods.multi_head.one import ensemble_kl
from kdbench.methods.mutual.kdcl import TARGETS
from kdbench.tasks.image.networks import create
from kdbench.testing.checks import Bench
from kdbench.training.cost import deployed_cost
from kdbench.training.learner import Learner

MAPS = ((3, 8, 8), (4, 4, 4), (5, 2, 2))


def maps(shapes: Sequence[tuple[int, ...]] = MAPS) -> list[Tensor]:
    return [torch.rand(BATCH, *shape, requires_grad=True) for shape in shapes]


def label_loss(z: Tensor, data: Batch) -> Tensor:
    return mean(cross_entropy(z[n], int(data.targets[n])) for n in range(len(z)))


def imitation(z: Tensor, guide: Tensor, temperature: float) -> Tensor:
    return mean(kl(z[n], guide[n], temperature) for n in range(len(z)))


def pooled(feature: Tensor) -> Tensor:
    """`[B, C, H, W]` to `[B, C]`, position by position."""
    _, _, height, width = feature.shape
    return sum(feature[:, :, i, j] for i in range(height) for j in range(width)) / (height * width)


# ---------------------------------------------------------------------------------------------- one


class Tail(nn.Module):
    """A last stage that reads the pooled map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Output:
        return output(self.linear(x.mean((2, 3))))


def one(**hyperparameters: Any) -> tuple[Any, Tail]:
    tail = Tail(MAPS[-2][0])
    method = registry.create("one", hyperparameters)
    method.build(network(*MAPS, tail=lambda stage: tail if stage == 2 else None), None)
    return method, tail


def test_ones_divergence_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("one_kl")
    goldens.require(golden["logits_s"])
    loss = ensemble_kl(golden["logits_s"], golden["logits_t"], 3.0)
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"logits_s": golden["logits_s"]}, {}, golden)


def test_one_is_the_papers_equation() -> None:
    method, _ = one()
    method.epoch, method.epochs = 41, 300
    features, z, data = maps(), logits(), batch()
    entering = pooled(features[1])
    branches = [z, *(entering @ branch.linear.weight.T + branch.linear.bias for branch in method.branches.others)]
    linear, norm, _ = method.branches.gate
    scores = entering @ linear.weight.T + linear.bias  # [B, 3]
    centred = scores - scores.mean(0)
    scores = norm.weight * centred / torch.sqrt(centred.pow(2).mean(0) + 1e-5) + norm.bias
    gate = torch.stack([torch.stack(probabilities(row.clamp(min=0))) for row in scores])
    ensemble = sum(gate[:, i, None] * branches[i] for i in range(3))

    def raised(n: int) -> list[Tensor]:
        return [p + 1e-7 for p in probabilities(ensemble[n].detach(), 3.0)]

    def learned(branch: Tensor) -> Tensor:
        return mean(9 * divergence(raised(n), probabilities(branch[n], 3.0)) for n in range(BATCH))

    expected = {
        "ce": sum(label_loss(branch, data) for branch in branches),
        "ensemble": label_loss(ensemble, data),
        "kd": math.exp(-5 * (1 - 40 / 80) ** 2) * sum(learned(branch) for branch in branches),
    }
    terms = method.loss(data, output(z, features), None)
    agree(terms, expected, [z, features[1], *method.parameters()])


@pytest.mark.parametrize(("epoch", "ramp"), [(1, math.exp(-5)), (41, math.exp(-1.25)), (81, 1.0), (300, 1.0)])
def test_ones_ramp_takes_80_of_300_epochs(epoch: int, ramp: float) -> None:
    method, _ = one()
    method.epoch, method.epochs = epoch, 300
    assert method.ramp() == pytest.approx(ramp, rel=1e-12)


def test_ones_ramp_may_be_left_out() -> None:
    assert one(ramp_share=0.0)[0].ramp() == 1.0


def test_ones_gate_learns_from_the_ensembles_labels_alone() -> None:
    method, _ = one()
    terms = method.loss(batch(), output(logits(), maps()), None)
    gate = list(method.branches.gate.parameters())
    from_kd = torch.autograd.grad(terms["kd"] + terms["ce"], gate, retain_graph=True, allow_unused=True)
    assert from_kd == (None,) * len(gate)
    assert torch.autograd.grad(terms["ensemble"], gate)[0].any()


def test_ones_branches_start_from_the_students_values_in_another_order() -> None:
    method, tail = one(n_branches=4)
    assert len(method.branches.others) == 3
    own = tail.linear.weight
    weights = [own, *(branch.linear.weight for branch in method.branches.others)]
    for i, weight in enumerate(weights):
        assert torch.equal(weight.flatten().sort().values, own.flatten().sort().values)
        assert not any(torch.equal(weight, other) for other in weights[:i])


def test_ones_branches_follow_the_last_but_one_stage_of_a_real_network() -> None:
    torch.set_default_dtype(torch.float32)
    student = create("cifar_resnet8", num_classes=CLASSES, in_chans=3, input_size=(3, 16, 16))
    method = registry.create("one")
    method.build(student, None)
    last = sum(p.numel() for p in student.tail(2).parameters())
    for branch in method.branches.others:
        assert sum(p.numel() for p in branch.parameters()) == last
        assert not set(branch.parameters()) & set(student.parameters())


def test_one_deploys_the_student_or_the_gated_ensemble() -> None:
    features, z = maps(), logits()
    student = Fixed(output(z, features))
    assert one()[0].deploy(student) is student
    method, _ = one(deployment="ensemble")
    deployed = method.deploy(student).eval()
    entering = pooled(features[1])
    branches = torch.stack([z, *(branch(features[1]).logits for branch in method.branches.others)])  # [3, B, K]
    gate = method.branches.gate(entering).softmax(1)
    close(deployed(torch.zeros(BATCH, 1)), (gate.T[:, :, None] * branches).sum(0))


class Fixed(nn.Module):
    """A network that always says the same."""

    def __init__(self, said: Output) -> None:
        super().__init__()
        self.said = said

    def forward(self, inputs: Tensor) -> Output:
        return self.said


@pytest.mark.parametrize("name", ["one", "byot"])
def test_a_student_of_one_stage_has_no_place_for_branches(name: str) -> None:
    with pytest.raises(NotApplicable, match=f"^{name} .*'some' has one"):
        registry.create(name).build(network((3, 4, 4)), None)


# ---------------------------------------------------------------------------------------------- byot


def test_byot_is_the_papers_three_losses() -> None:
    method = registry.create("byot")
    method.build(network(*MAPS), None)
    features, z, data = maps(), logits(), batch()
    terms = method.loss(data, output(z, features), None)
    deepest = pooled(features[2]).detach()
    heads, kd, hints = [], [], []
    for k in range(2):
        small = method.bottlenecks[k](features[k])
        assert small.shape[1:] == MAPS[-1]
        own = pooled(small)
        classifier = method.classifiers[k]
        shallow = own @ classifier.weight.T + classifier.bias
        heads.append(label_loss(shallow, data))
        kd.append(imitation(shallow, z, 3.0))
        hints.append(mean(sum((own[n, c] - deepest[n, c]) ** 2 for c in range(5)) for n in range(BATCH)))
    expected = {"ce": label_loss(z, data), "heads": 0.9 * sum(heads), "kd": 0.1 * sum(kd), "hint": 1.28e-4 * sum(hints)}
    agree(terms, expected, [z, *features[:2], *method.parameters()])


def test_byots_deepest_classifier_learns_from_labels_alone() -> None:
    method = registry.create("byot")
    method.build(network(*MAPS), None)
    features, z = maps(), logits()
    terms = method.loss(batch(), output(z, features), None)
    assert torch.autograd.grad(total(terms), features[2], retain_graph=True, allow_unused=True) == (None,)
    close(torch.autograd.grad(total(terms), z)[0], torch.autograd.grad(F.cross_entropy(z, batch().targets), z)[0])


def test_byots_bottleneck_shrinks_maps_that_do_not_divide() -> None:
    method = registry.create("byot")
    method.build(network((3, 7, 7), (4, 7, 7), (5, 3, 3)), None)
    features = maps(((3, 7, 7), (4, 7, 7), (5, 3, 3)))
    assert [b(f).shape[2:] for b, f in zip(method.bottlenecks, features, strict=False)] == [(3, 3), (3, 3)]


# ---------------------------------------------------------------------------------------------- kdcl


def kdcl_target(name: str, students: Sequence[Tensor], data: Batch) -> Tensor:
    """The ensemble teacher, sample by sample."""
    rows = []
    for n in range(BATCH):
        target = int(data.targets[n])
        each = [z[n].detach() for z in students]
        if name == "naive":
            rows.append(min(each, key=lambda row: float(cross_entropy(row, target))))
        else:
            shifted = [row - row[target] for row in each]
            rows.append(torch.stack([min(row[c] for row in shifted) for c in range(CLASSES)]))
    return torch.stack(rows)


@pytest.mark.parametrize("target", ["naive", "minlogit"])
@pytest.mark.parametrize("count", [2, 3])
def test_kdcl_is_the_papers_equation(target: str, count: int) -> None:
    students, data = [logits() for _ in range(count)], batch()
    method = registry.create("kdcl", {"target": target, "n_students": count, "views": "same", "kd_weight": 2.0})
    guide = kdcl_target(target, students, data)
    expected = {}
    for i, z in enumerate(students):
        expected[f"ce_{i}"] = label_loss(z, data)
        expected[f"kd_{i}"] = 2 * imitation(z, guide, 4.0)
    agree(method.loss(data, [output(z) for z in students], None), expected, students)


def test_kdcls_linear_target_is_the_best_convex_combination_of_two() -> None:
    students, data = torch.stack([logits().detach() for _ in range(2)]), batch()
    found = TARGETS["linear"](students, data.targets)
    shares = torch.linspace(0, 1, 2001)[:, None, None, None]
    grid = shares * students[0] + (1 - shares) * students[1]  # [2001, 1, B, K]
    losses = F.cross_entropy(grid[:, 0].transpose(1, 2), data.targets.expand(2001, -1), reduction="none")
    own = F.cross_entropy(found, data.targets, reduction="none")
    assert (own <= losses.amin(0) + 1e-12).all()
    assert (losses.amin(0) - own).max() < 1e-4  # the grid's own coarseness


def test_kdcls_linear_target_comes_close_to_the_best_combination_of_three() -> None:
    students, data = torch.stack([logits().detach() for _ in range(3)]), batch()
    found = F.cross_entropy(TARGETS["linear"](students, data.targets), data.targets, reduction="none")
    ticks = torch.linspace(0, 1, 101)
    a, b = torch.meshgrid(ticks, ticks, indexing="ij")
    weights = torch.stack([a, b, 1 - a - b], -1).flatten(0, 1)
    grid = torch.einsum("gn,nbk->gbk", weights[weights[:, 2] >= 0], students)
    losses = F.cross_entropy(grid.transpose(1, 2), data.targets.expand(len(grid), -1), reduction="none")
    assert (found < losses.amin(0) + 0.02).all()


def test_kdcls_general_target_weighs_by_the_errors_of_the_epoch_before() -> None:
    students, data = [logits() for _ in range(2)], batch()
    method = registry.create("kdcl", {"target": "general"})
    method.build([network(), network()], None)
    outputs = [output(z) for z in students]
    first = method.loss(data, outputs, None)
    equal = (students[0] + students[1]) / 2
    close(first["kd_0"], imitation(students[0], equal, 4.0))
    close(method.loss(data, outputs, None)["kd_0"], first["kd_0"])  # all through the epoch
    errors = torch.zeros(2, 2)
    for i in range(2):
        for j in range(2):
            for n in range(BATCH):
                wrong = [torch.stack(probabilities(students[m][n].detach())) for m in (i, j)]
                wrong = [p - F.one_hot(data.targets[n], CLASSES) for p in wrong]
                errors[i, j] += (wrong[0] * wrong[1]).sum()
    close(method.errors, 2 * errors)  # of both batches
    (a, b), (c, d) = errors + 1e-4 * errors.trace() / 2 * torch.eye(2)
    weights = torch.stack([d - b, a - c]) / (a + d - b - c)  # C^-1 1 of a 2 x 2 matrix
    method.epoch = 2
    second = method.loss(data, outputs, None)
    guide = weights[0] * students[0] + weights[1] * students[1]
    close(second["kd_1"], imitation(students[1], guide.detach(), 4.0))
    close(method.errors, errors)  # counted anew


def test_kdcls_general_target_of_networks_that_agree_is_their_mean() -> None:
    z = logits()
    method = registry.create("kdcl", {"target": "general"})
    method.build([network(), network()], None)
    for method.epoch in (1, 2):
        terms = method.loss(batch(), [output(z), output(z)], None)
    close(method.weights, torch.full((2,), 0.5))
    close(terms["kd_0"], torch.zeros(()))


@pytest.mark.parametrize(("views", "seen"), [("second", [0.0, 1.0, 0.0]), ("same", [0.0, 0.0, 0.0])])
def test_kdcls_networks_see_views_of_their_own(views: str, seen: list[float]) -> None:
    data = batch()
    two = Batch(torch.zeros(BATCH, 1), data.targets, data.indices, strong=torch.ones(BATCH, 1))
    looked: list[float] = []

    def forward(student: int, inputs: Tensor) -> Output:
        looked.append(float(inputs[0, 0]))
        return output(logits())

    step = SimpleNamespace(batch=two, forward=forward, update=lambda terms: None)
    method = registry.create("kdcl", {"views": views, "n_students": 3})
    assert ("strong_view" in method.needs) == (views == "second")
    method.step(step)
    assert looked == seen


def test_kdcls_peers_are_students_or_of_the_teachers_architecture() -> None:
    assert registry.create("kdcl").members() == ("student", "student")
    assert registry.create("kdcl", {"peer": "teacher", "n_students": 3}).members() == ("student", "teacher", "teacher")


# ---------------------------------------------------------------------------------------------- takd, dgkd


@pytest.mark.parametrize(("name", "suffix"), [("takd", "_takd"), ("dgkd", "")])
def test_chains_of_assistants_agree_with_the_authors_code_in_value_and_gradient(name: str, suffix: str) -> None:
    golden = goldens.load("takd_dgkd")
    goldens.require(golden["logits_s"])
    guides = [goldens.output(golden[key]) for key in ("logits_t", "logits_ta_0", "logits_ta_1", "logits_ta_2")]
    method = registry.create(name, {"kd_weight": 0.7, "temperature": 5.0})
    taught = guides if name == "dgkd" else guides[:1]
    terms = method.loss(goldens.batch(golden["target"]), goldens.output(golden["logits_s"]), taught)
    goldens.close(total(terms), golden[f"loss{suffix}"])
    if name == "dgkd":
        goldens.gradients_agree(total(terms), {"logits_s": golden["logits_s"]}, {}, golden)


def test_takd_may_sum_over_classes_as_kd_does() -> None:
    z, guide, data = logits(), logits().detach(), batch()
    terms = registry.create("takd", {"reduction": "classes", "kd_weight": 0.9, "temperature": 4.0}).loss(
        data, output(z), [output(guide)]
    )
    kd = registry.create("kd").loss(data, output(z), output(guide))
    agree(terms, kd, [z])


def learner(folder: Path, name: str, **hyperparameters: Any) -> Learner:
    torch.set_default_dtype(torch.float32)
    bench = Bench(folder)
    return bench.learner(bench.cell(name, **hyperparameters))


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def moved(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def train_epoch(one: Learner) -> None:
    one.begin_epoch()
    for number, data in enumerate(one.data.epoch(one.epoch)):
        with torch.no_grad():
            outputs = [teacher(data.inputs) for teacher in one.teachers]
        one.train_step(number, data, outputs)
    one.end_epoch(None, 0.0)


@pytest.mark.parametrize("name", ["takd", "dgkd"])
def test_in_a_chain_one_network_trains_after_the_other_and_the_rest_stays(tmp_path: Path, name: str) -> None:
    chain = learner(tmp_path, name, assistants=2)
    trained = []
    while not chain.finished:
        before = [state(network) for network in chain.students]
        train_epoch(chain)
        trained.append([k for k, network in enumerate(chain.students) if moved(network, before[k])])
    assert trained == [[1], [2], [2], [0]]  # the norms' statistics of the others stay too


def test_a_frozen_member_is_in_eval_mode_and_starts_to_train_in_its_own_phase(tmp_path: Path) -> None:
    chain = learner(tmp_path, "takd")
    chain.begin_epoch()
    assert [network.training for network in chain.students] == [False, True]
    assert [any(p.requires_grad for p in network.parameters()) for network in chain.students] == [False, True]
    chain.epoch = 2
    chain.begin_epoch()
    assert [network.training for network in chain.students] == [True, False]
    assert all(p.requires_grad for p in chain.students[0].parameters())


def watched(name: str, phase: str, **hyperparameters: Any) -> tuple[int, list[tuple[int, bool]]]:
    """How many guides a step has, and which networks it runs, each with or without a gradient."""
    method = registry.create(name, hyperparameters)
    method.phase = phase
    ran: list[tuple[int, bool]] = []
    guides: list[int] = []

    def forward(student: int) -> Output:
        ran.append((student, torch.is_grad_enabled()))
        return output(logits())

    loss: Callable[..., Any] = method.loss
    method.loss = lambda batch, student, teacher: guides.append(len(teacher)) or loss(batch, student, teacher)
    taught = [output(logits().detach())]
    method.step(SimpleNamespace(batch=batch(), forward=forward, teacher_outputs=taught, update=lambda terms: None))
    return guides[0], ran


def test_takds_networks_learn_from_the_one_above() -> None:
    assert watched("takd", "assistant_1", assistants=2) == (1, [(1, True)])
    assert watched("takd", "assistant_2", assistants=2) == (1, [(1, False), (2, True)])
    assert watched("takd", "student", assistants=2) == (1, [(2, False), (0, True)])


def test_dgkds_networks_learn_from_all_above_and_the_student_from_all_but_one() -> None:
    assert watched("dgkd", "assistant_1", assistants=3) == (1, [(1, True)])
    assert watched("dgkd", "assistant_3", assistants=3) == (3, [(1, False), (2, False), (3, True)])
    kept = {tuple(watched("dgkd", "student", assistants=3)[1][:-1]) for _ in range(60)}
    everyone = [(1, False), (2, False), (3, False)]
    assert kept == {tuple(everyone), *(tuple(everyone[:i] + everyone[i + 1 :]) for i in range(3))}
    assert all(watched("dgkd", "student", assistants=3)[0] == 3 for _ in range(5))
    assert watched("dgkd", "student", assistants=3, dropped=0)[0] == 4


def test_a_pair_with_too_few_assistants_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"takd needs 3 assistants .* the pair names 2: add `assistants"):
        learner(tmp_path, "takd", assistants=3)


# ---------------------------------------------------------------------------------------------- residual_kd


def residual(theirs: Sequence[tuple[int, ...]]) -> tuple[Any, list[Tensor], list[Tensor], list[Tensor]]:
    method = registry.create("residual_kd")
    narrow = tuple((c - 1, *space) for c, *space in MAPS)
    teacher = network(*theirs)
    method.build([network(*MAPS), network(*narrow)], teacher)
    return method, maps(), maps(narrow), [each.detach() for each in maps(theirs)]


def normalised(adapter: nn.Sequential, feature: Tensor) -> Tensor:
    """A 1x1 convolution and BatchNorm in train mode, as matrix products."""
    conv, norm = adapter
    mixed = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], feature)
    centred = mixed - mixed.mean((0, 2, 3), keepdim=True)
    scaled = centred / torch.sqrt(centred.pow(2).mean((0, 2, 3), keepdim=True) + 1e-5)
    return norm.weight[:, None, None] * scaled + norm.bias[:, None, None]


def test_residual_kds_assistant_learns_what_the_student_misses() -> None:
    theirs = ((6, 8, 8), (7, 4, 4), (8, 2, 2))
    method, ours, others, goal = residual(theirs)
    data, head = batch(), method.head
    feature, rest = torch.zeros(()), torch.zeros(())
    for k in range(3):
        near, extra = normalised(method.phi[k], ours[k]), normalised(method.psi[k], others[k])
        feature = feature + mean(((near - goal[k]) ** 2).flatten())
        rest = rest + mean(((extra - (goal[k] - near.detach())) ** 2).flatten())
    alone = pooled(near)
    together = alone.detach() + pooled(extra)
    expected = {
        "ce": label_loss(alone @ head.weight.T + head.bias, data),
        "feature": 100 * feature,
        "fused": label_loss(together @ head.weight.T + head.bias, data),
        "residual": 100 * rest,
    }
    students = [output(features=ours), output(features=others)]
    terms = method.loss(data, students, output(features=goal))
    agree(terms, expected, [*ours, *others, *method.parameters()])


def test_residual_kds_student_learns_nothing_from_the_assistants_terms() -> None:
    method, ours, others, goal = residual(MAPS)
    terms = method.loss(batch(), [output(features=ours), output(features=others)], output(features=goal))
    assistants = terms["fused"] + terms["residual"]
    found = torch.autograd.grad(assistants, [*ours, *method.phi.parameters()], allow_unused=True, retain_graph=True)
    assert set(found) == {None}
    students = torch.autograd.grad(terms["ce"] + terms["feature"], others, allow_unused=True)
    assert set(students) == {None}


def test_residual_kd_pairs_stages_from_the_deepest_on_and_pools_the_larger_map() -> None:
    method, ours, others, goal = residual(((7, 2, 2), (8, 4, 4)))
    assert len(method.phi) == len(method.psi) == 2
    close(
        method.loss(batch(), [output(features=ours), output(features=others)], output(features=goal))["feature"],
        100
        * (
            F.mse_loss(F.adaptive_avg_pool2d(normalised(method.phi[0], ours[1]), 2), goal[0])
            + F.mse_loss(normalised(method.phi[1], ours[2]), F.adaptive_avg_pool2d(goal[1], 2))
        ),
    )


def test_residual_kd_deploys_what_it_trained_for() -> None:
    method, ours, others, goal = residual(MAPS)
    students = [output(features=ours), output(features=others)]
    for _ in range(3):  # running statistics that are not the initial ones
        method.loss(batch(), students, output(features=goal))
    method.eval()
    terms = method.loss(batch(), students, output(features=goal))
    deployed = method.deploy([Fixed(each) for each in students]).eval()
    close(F.cross_entropy(deployed(torch.zeros(BATCH, 1)), batch().targets), terms["fused"])


PAIRS = [
    ("cifar_resnet56", "cifar_resnet20"),
    ("cifar_resnet32x4", "cifar_resnet8x4"),
    ("cifar_wrn_40_2", "cifar_wrn_16_2"),
    ("cifar_vgg13", "cifar_vgg8"),
]


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_residual_kds_two_networks_cost_no_more_than_the_plain_student(teacher: str, student: str) -> None:
    torch.set_default_dtype(torch.float32)

    def built(name: str, **options: float) -> Any:
        return create(name, num_classes=100, in_chans=3, input_size=(3, 32, 32), **options)

    method = registry.create("residual_kd")
    widths = [float(role.removeprefix("student*")) for role in method.members()]
    students = [built(student, width_factor=width) for width in widths]
    method.bind(students, [built(teacher)])
    example = torch.zeros(1, 3, 32, 32)
    both, plain = (deployed_cost(module, example) for module in (method.deployed(students), built(student)))
    for key in ("deployed_macs", "deployed_parameters"):
        assert 0.8 * plain[key] < both[key] <= plain[key], key


def test_residual_kd_needs_a_student_that_can_be_made_narrower(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    bench = Bench(tmp_path, student="cifar_shufflenetv2")
    with pytest.raises(NotApplicable, match="residual_kd needs a student of another width: network 'cifar_shufflenetv"):
        bench.learner(bench.cell("residual_kd"))


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("one", {"n_branches": 1}),
        ("one", {"deployment": "mean"}),
        ("kdcl", {"target": "mean"}),
        ("kdcl", {"peer": "assistant"}),
        ("kdcl", {"views": "weak"}),
        ("kdcl", {"n_students": 1}),
        ("takd", {"assistants": 0}),
        ("takd", {"reduction": "mean"}),
        ("dgkd", {"dropped": 3}),
        ("residual_kd", {"assistant_width": 0.5}),
    ],
)
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^{name}.*{next(iter(option.values()))}"):
        registry.create(name, option)

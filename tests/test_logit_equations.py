"""Methods on logits that have no golden vectors, against their equations as plain loops over samples, in float64."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    mutual_by_loops,
    network,
    output,
    probabilities,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, registry
from kdbench.testing.trial import Bench


def label_term(z: Tensor, data: Batch) -> Tensor:
    return mean(cross_entropy(z[b], int(data.targets[b])) for b in range(BATCH))


def without(values: Sequence[Tensor], target: int) -> list[Tensor]:
    return [value for c, value in enumerate(values) if c != target]


def normalised(values: Sequence[Tensor]) -> list[Tensor]:
    return [value / sum(values) for value in values]


# ---------------------------------------------------------------------------------------------- cmkd


def correlation(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Pearson's, with DIST's 1e-8 in the denominator."""
    a, b = ([value - sum(values) / len(values) for value in values] for values in (a, b))
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / (torch.sqrt(sum(x**2 for x in a)) * torch.sqrt(sum(y**2 for y in b)) + 1e-8)


def cmkd_by_loops(z: Tensor, teacher: Tensor, rank_for: str, softness: float) -> tuple[Tensor, Tensor]:
    """The two correlation terms without their weight."""
    values, order = [], []
    for b in range(BATCH):
        p = probabilities(teacher[b], 4.0)
        difficulty = -sum(x * torch.log(x) for x in p) / math.log(CLASSES)
        hard = difficulty if rank_for == "hard" else 1 - difficulty
        soft = [
            1 + sum(1 / (1 + torch.exp((z[b, j] - z[b, c]) / softness)) for j in range(CLASSES) if j != c)
            for c in range(CLASSES)
        ]
        ranks = [torch.tensor(1.0 + sum(float(teacher[b, j] < x) for j in range(CLASSES))) for x in teacher[b]]
        values.append((1 - hard) * (1 - correlation(probabilities(z[b], 4.0), p)))
        order.append(hard * (1 - correlation(soft, ranks)))
    return mean(values), mean(order)


@pytest.mark.parametrize("rank_for", ["hard", "easy"])
@pytest.mark.parametrize("softness", [0.1, 1.0])
def test_cmkd_weighs_the_two_correlations_by_the_teachers_entropy(rank_for: str, softness: float) -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    values, order = cmkd_by_loops(z, teacher, rank_for, softness)
    expected = {"ce": label_term(z, data), "pearson": 2 * 16 * values, "spearman": 2 * 16 * order}
    method = registry.create("cmkd", {"rank_for": rank_for, "softness": softness})
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


def test_cmkds_soft_ranks_become_the_ranks_as_the_softness_falls() -> None:
    from kdbench.methods.logits.cmkd import soft_ranks

    z = torch.stack([torch.randperm(9).double() for _ in range(3)])
    close(soft_ranks(z, 1e-3), z + 1)


def test_cmkds_soft_ranks_do_not_depend_on_how_many_rows_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.methods.logits import cmkd

    z = logits()
    whole = cmkd.soft_ranks(z, 0.5)
    monkeypatch.setattr(cmkd, "CHUNK", 2 * CLASSES**2)
    assert torch.equal(cmkd.soft_ranks(z, 0.5), whole)


# ---------------------------------------------------------------------------------------------- ctkd


@pytest.mark.parametrize(
    ("epoch", "epochs", "progress"), [(1, 240, 0.1), (5, 240, 0.5), (10, 240, 1), (11, 240, 1), (2, 96, 0.5)]
)
def test_ctkd_reverses_the_temperatures_gradient_along_a_cosine_over_10_of_240_epochs(
    epoch: int, epochs: int, progress: float
) -> None:
    method = registry.create("ctkd")
    method.build(network(), network())
    method.epoch, method.epochs = epoch, epochs
    z, teacher, data = logits(), logits().detach(), batch()
    theta = torch.tensor(1.0, requires_grad=True)
    temperature = 1 + 20 / (1 + torch.exp(-theta))
    divergences = mean(kl(z[b], teacher[b], temperature) for b in range(BATCH))
    expected = {"ce": 0.1 * label_term(z, data), "kd": 0.9 * divergences}
    terms = method.loss(data, output(z), output(teacher))
    for name, term in terms.items():
        close(term, expected[name])
    ours = torch.autograd.grad(total(terms), [z, method.theta])
    theirs = torch.autograd.grad(total(expected), [z, theta])
    close(ours[0], theirs[0])
    close(ours[1], (math.cos(math.pi * progress) - 1) / 2 * theirs[1].reshape(1))
    assert theirs[1] != 0


def test_ctkds_temperature_starts_at_theta_1_and_trains_with_the_student() -> None:
    method = registry.create("ctkd", {"start": 2.0, "span": 10.0})
    method.build(network(), network())
    close(method.temperature(), 2 + 10 / (1 + torch.exp(-torch.ones(1))))
    assert [name for name, _ in method.named_parameters()] == ["theta"]


# ---------------------------------------------------------------------------------------------- nkd


@pytest.mark.parametrize("options", [{}, {"gamma": 0.5, "temperature": 2.0}])
def test_nkd_teaches_the_target_by_its_probability_and_the_others_normalised(options: dict[str, float]) -> None:
    gamma, temperature = {"gamma": 1.5, "temperature": 1.0, **options}.values()
    z, teacher, data = logits(), logits().detach(), batch()
    target, others = [], []
    for b in range(BATCH):
        y = int(data.targets[b])
        target.append(-probabilities(teacher[b])[y] * torch.log(probabilities(z[b])[y]))
        ours, theirs = (normalised(without(probabilities(x[b], temperature), y)) for x in (z, teacher))
        others.append(-sum(t * torch.log(s) for t, s in zip(theirs, ours, strict=True)))
    expected = {"ce": label_term(z, data), "target": mean(target), "others": gamma * temperature**2 * mean(others)}
    agree(registry.create("nkd", options).loss(data, output(z), output(teacher)), expected, [z])


# ---------------------------------------------------------------------------------------------- ttm and wttm


@pytest.mark.parametrize("options", [{}, {"power": 0.5, "weight": 3.0}])
@pytest.mark.parametrize(("name", "defaults"), [("ttm", (0.1, 45.0)), ("wttm", (0.2, 4.0))])
def test_ttm_matches_the_teachers_probabilities_raised_to_a_power(
    name: str, defaults: tuple[float, float], options: dict[str, float]
) -> None:
    power, weight = options.values() if options else defaults
    z, teacher, data = logits(), logits().detach(), batch()
    matches = []
    for b in range(BATCH):
        raised = [p**power for p in probabilities(teacher[b])]
        scale = sum(raised) if name == "wttm" else 1.0
        matches.append(scale * divergence(normalised(raised), probabilities(z[b])))
    expected = {"ce": label_term(z, data), "match": weight * mean(matches)}
    method = registry.create(name, options)
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


@pytest.mark.parametrize("name", ["ttm", "wttm"])
def test_ttm_without_a_power_is_kd_at_temperature_1(name: str) -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    match = registry.create(name, {"power": 1.0, "weight": 1.0}).loss(data, output(z), output(teacher))["match"]
    close(match, mean(kl(z[b], teacher[b], 1.0) for b in range(BATCH)))


# ---------------------------------------------------------------------------------------------- wsld


@pytest.mark.parametrize("options", [{}, {"alpha": 2.5, "temperature": 2.0}])
def test_wsld_weighs_soft_labels_by_how_much_worse_the_student_is(options: dict[str, float]) -> None:
    alpha, temperature = {"alpha": 2.25, "temperature": 4.0, **options}.values()
    z, teacher, data = logits(), logits().detach(), batch()
    soft = []
    for b in range(BATCH):
        y = int(data.targets[b])
        ours, theirs = cross_entropy(z[b], y).detach(), cross_entropy(teacher[b], y)
        weight = 1 - torch.exp(-ours / (theirs + 1e-7))  # a constant
        p, q = probabilities(teacher[b], temperature), probabilities(z[b], temperature)
        soft.append(-weight * sum(t * torch.log(s) for t, s in zip(p, q, strict=True)))
    expected = {"ce": label_term(z, data), "soft": alpha * temperature**2 * mean(soft)}
    agree(registry.create("wsld", options).loss(data, output(z), output(teacher)), expected, [z])


def test_wsld_stays_finite_where_the_teacher_makes_no_error() -> None:
    z, teacher = logits(), 1000 * F.one_hot(batch().targets, CLASSES).double()
    terms = registry.create("wsld").loss(batch(), output(z), output(teacher))
    assert torch.autograd.grad(total(terms), z)[0].isfinite().all()


# ---------------------------------------------------------------------------------------------- tf_kd


@pytest.mark.parametrize("options", [{}, {"alpha": 0.95, "temperature": 40.0, "correct": 0.9, "weight": 0.01}])
def test_tf_kd_learns_from_a_virtual_teacher_that_is_right_with_a_fixed_probability(options: dict[str, float]) -> None:
    given = {"alpha": 0.1, "temperature": 20.0, "correct": 0.99, "weight": 1.0, **options}
    z, data = logits(), batch()
    virtual = []
    for b in range(BATCH):
        right, wrong = given["correct"], (1 - given["correct"]) / (CLASSES - 1)
        v = torch.tensor([right if c == data.targets[b] else wrong for c in range(CLASSES)])
        virtual.append(divergence(probabilities(v, given["temperature"]), probabilities(z[b])))
    expected = {
        "ce": (1 - given["alpha"]) * label_term(z, data),
        "virtual": given["alpha"] * given["weight"] * mean(virtual),
    }
    agree(registry.create("tf_kd", options).loss(data, output(z), None), expected, [z])


def test_tf_kds_weight_is_the_official_multiplier_over_the_number_of_classes() -> None:
    """The official code takes nn.KLDivLoss's mean over samples and classes, times 100 for resnet18 on CIFAR-100."""
    z, data = logits(100), batch(100)
    virtual = torch.full((BATCH, 100), 0.01 / 99).scatter(1, data.targets[:, None], 0.99)
    official = nn.KLDivLoss(reduction="none")(z.log_softmax(1), (virtual / 20).softmax(1)).mean() * 100
    close(registry.create("tf_kd").loss(data, output(z), None)["virtual"], 0.1 * official)


# ---------------------------------------------------------------------------------------------- lskd with dkd


def z_scores(z: Tensor) -> list[Tensor]:
    """One row's, with the unbiased standard deviation."""
    centre = sum(z) / len(z)
    deviation = torch.sqrt(sum((value - centre) ** 2 for value in z) / (len(z) - 1))
    return [(value - centre) / (deviation + 1e-7) for value in z]


def test_lskd_with_dkd_decouples_standardised_logits_and_multiplies_both_weights_by_nine() -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    target, rest = [], []
    for b in range(BATCH):
        y = int(data.targets[b])
        ours, theirs = (probabilities(torch.stack(z_scores(x[b])), 2.0) for x in (z, teacher))
        target.append(4 * divergence(*([p[y], 1 - p[y]] for p in (theirs, ours))))
        rest.append(4 * divergence(*(normalised(without(p, y)) for p in (theirs, ours))))
    expected = {"ce": label_term(z, data), "tckd": 9 * mean(target), "nckd": 9 * 8 * mean(rest)}
    method = registry.create("lskd", {"base": "dkd", "ce_weight": 1.0})
    method.epoch, method.epochs = 240, 240
    agree(method.loss(data, output(z), output(teacher)), expected, [z])
    method.epoch = 5  # dkd's warm-up
    close(method.loss(data, output(z), output(teacher))["nckd"], 5 / 20 * expected["nckd"])


# ---------------------------------------------------------------------------------------------- dot with kd


class LinearStep:
    """What `Method.step` sees of the engine, with one linear student."""

    def __init__(self, rate: float, momentum: float, decay: float) -> None:
        self.data = batch()
        self.inputs, self.teacher = torch.randn(BATCH, 3), logits().detach()
        self.student = nn.Linear(3, CLASSES)
        self.students, self.batch = [self.student], self.data
        self.teacher_outputs = [output(self.teacher)]
        self.optimizer = torch.optim.SGD(self.student.parameters(), rate, momentum, weight_decay=decay)

    def forward(self, student: int = 0, inputs: Tensor | None = None) -> Output:
        return output(self.students[student](self.inputs))

    def update(self, terms: Mapping[str, Tensor]) -> None:
        raise AssertionError("dot has an update of its own")


def test_dots_steps_with_kd_move_each_weight_by_two_momenta_of_its_two_gradients() -> None:
    rate, momentum, delta, decay = 0.1, 0.9, 0.075, 0.01
    step = LinearStep(rate, momentum, decay)
    weights = {name: p.detach().clone() for name, p in step.student.named_parameters()}
    task_momenta: dict[str, Tensor] = {}
    kd_momenta: dict[str, Tensor] = {}
    method = registry.create("dot", {"delta": delta})
    for _ in range(3):
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        z = torch.stack([
            torch.stack([sum(leaves["weight"][c] * x) + leaves["bias"][c] for c in range(CLASSES)]) for x in step.inputs
        ])  # fmt: skip
        task = 0.1 * label_term(z, step.data)
        taught = 0.9 * mean(kl(z[b], step.teacher[b], 4.0) for b in range(BATCH))
        gradients = [torch.autograd.grad(loss, list(leaves.values()), retain_graph=True) for loss in (task, taught)]
        for name, own, other in zip(leaves, *gradients, strict=True):
            own = own + decay * weights[name]
            task_momenta[name] = (momentum - delta) * task_momenta[name] + own if name in task_momenta else own
            kd_momenta[name] = (momentum + delta) * kd_momenta[name] + other if name in kd_momenta else other
            weights[name] = weights[name] - rate * (task_momenta[name] + kd_momenta[name])
        terms = method.step(step)
        close(terms["ce"], task)
        close(terms["kd"], taught)
        for name, parameter in step.student.named_parameters():
            close(parameter.detach(), weights[name])


def test_dots_steps_in_the_engine_are_those_of_the_equation(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    bench = Bench(tmp_path)
    learner = bench.learner(bench.cell("dot"))
    recipe, student = learner.recipe, learner.students[0].double()
    (teacher,) = learner.teachers
    momenta: dict[str, list[Tensor]] = {}
    learner.begin_epoch()
    for number, data in enumerate(learner.data.epoch(0)):
        twin = copy.deepcopy(student)
        wide = dataclasses.replace(data, inputs=data.inputs.double())
        taught_by = teacher.double()(wide.inputs)
        z, count = twin(wide.inputs).logits, len(data)
        losses = (
            0.1 * mean(cross_entropy(z[b], int(data.targets[b])) for b in range(count)),
            0.9 * mean(kl(z[b], taught_by.logits[b], 4.0) for b in range(count)),
        )
        gradients = [torch.autograd.grad(loss, list(twin.parameters()), retain_graph=True) for loss in losses]
        learner.train_step(number, wide, [taught_by])
        for name, before, after, *pair in zip(*_named(twin, student), *gradients, strict=True):
            for k, keep in enumerate((recipe.momentum - 0.075, recipe.momentum + 0.075)):
                pair[k] = pair[k] + keep * momenta[name][k] if name in momenta else pair[k]
            momenta[name] = pair
            close(after, before - recipe.learning_rate * (pair[0] + pair[1]))
    assert number >= 1  # the second step meets momenta


def _named(twin: nn.Module, student: nn.Module) -> tuple[list[str], list[Tensor], list[Tensor]]:
    names = [name for name, _ in twin.named_parameters()]
    return names, list(twin.parameters()), list(student.parameters())


def test_dot_without_a_difference_of_momenta_is_sgd() -> None:
    once, apart = (LinearStep(0.1, 0.9, 0.01) for _ in range(2))
    apart.student.load_state_dict(once.student.state_dict())
    apart.inputs, apart.teacher_outputs = once.inputs, once.teacher_outputs
    method, kd = registry.create("dot", {"delta": 0.0}), registry.create("kd")
    for _ in range(3):
        method.step(once)
        apart.optimizer.zero_grad()
        total(kd.loss(apart.batch, apart.forward(), apart.teacher_outputs[0])).backward()
        apart.optimizer.step()
    for one, other in zip(once.student.parameters(), apart.student.parameters(), strict=True):
        close(one, other)


# ---------------------------------------------------------------------------------------------- peer_mutual


def test_peer_mutual_with_three_students_takes_the_mean_over_each_ones_peers() -> None:
    options = {"n_students": 3, "ce_weight": 0.2, "kd_weight": 0.3, "mutual_weight": 0.5, "temperature": 3.0}
    method = registry.create("peer_mutual", options)
    assert method.members() == ("student", "student", "student", "teacher")
    members, data = [output() for _ in range(4)], batch()
    expected = {"ce_teacher": label_term(members[3].logits, data)}
    for i in range(3):
        ce, mutual = mutual_by_loops(members[:3], data, i, 3.0)
        kd = mean(kl(members[i].logits[b], members[3].logits[b], 3.0) for b in range(BATCH))
        expected |= {f"ce_{i}": 0.2 * ce, f"kd_{i}": 0.3 * kd, f"mutual_{i}": 0.5 * mutual}
    agree(method.loss(data, members, None), expected, [member.logits for member in members])


# ---------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("name", ["cmkd", "ctkd", "nkd", "ttm", "wttm", "wsld", "tf_kd", "lskd"])
@pytest.mark.parametrize(("classes", "size"), [(2, BATCH), (CLASSES, 1)], ids=["two classes", "one sample"])
def test_losses_on_logits_are_finite_with_two_classes_and_with_one_sample(name: str, classes: int, size: int) -> None:
    method = registry.create(name)
    method.build(network(classes=classes), network(classes=classes))
    z, teacher = logits(classes, size), logits(classes, size).detach()
    terms = method.loss(batch(classes, size), output(z), output(teacher))
    assert all(term.isfinite() and not term.shape for term in terms.values())
    assert torch.autograd.grad(total(terms), z)[0].isfinite().all()


def test_dot_refuses_an_optimizer_whose_momentum_it_cannot_split() -> None:
    step = LinearStep(0.1, 0.9, 0.01)
    step.optimizer = torch.optim.AdamW(step.student.parameters())
    with pytest.raises(NotApplicable, match="dot needs SGD without Nesterov"):
        registry.create("dot").step(step)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cmkd", {"rank_for": "all"}),
        ("cmkd", {"softness": 0.0}),
        ("lskd", {"base": "crd"}),
        ("dot", {"base": "dist"}),
        ("peer_mutual", {"n_students": 1}),
        ("peer_mutual", {"deployment": "both"}),
    ],
)
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^{name}.*{next(iter(option.values()))}"):
        registry.create(name, option)


def test_ctkds_temperature_is_in_the_curve(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    bench = Bench(tmp_path, epochs=2)
    curve = bench.run([bench.cell("ctkd")])[0]["curve"]
    temperatures = [point["watched"]["temperature"] for point in curve]
    assert all(1 < temperature < 21 for temperature in temperatures)
    assert temperatures[0] != temperatures[1]

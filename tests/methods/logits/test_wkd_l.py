"""wkd_l moves the student's probabilities to the teacher's, at a cost by how unlike two classes are to the teacher."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    Whole,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    network,
    output,
    probabilities,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, Shapes, registry


class Teacher(nn.Module):
    """Gives each image's own map, and logits of its mean."""

    name = "stored"

    def __init__(self, classes: int, width: int = 3, features: bool = True) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, classes)
        self.shapes = Shapes(classes, width, ((width, 2, 2),) if features else ())

    def forward(self, inputs: Tensor) -> Output:
        embedding = inputs.mean((2, 3))
        return Output(self.classifier(embedding), embedding, (inputs,))


def training_set(targets: Tensor, width: int = 3) -> Whole:
    return Whole(Batch(torch.randn(len(targets), width, 2, 2), targets, torch.arange(len(targets))))


def wkd_l(classes: int = CLASSES, **options: Any) -> Any:
    method = registry.create("wkd_l", options)
    method.build(network(classes=classes), network(classes=classes))
    return method


def transported(student: list[Tensor], teacher: list[Tensor], cost: list[list[float]]) -> Tensor:
    """The authors' ten rounds between the classes beside the label, entry by entry."""
    size = len(student)
    kernel = [[math.exp(-c / 0.05) for c in row] for row in cost]
    u = [torch.tensor(1 / size)] * size
    v = u
    for _ in range(10):
        v = [teacher[j] / (sum(kernel[i][j] * u[i] for i in range(size)) + 1e-8) for j in range(size)]
        u = [student[i] / (sum(kernel[i][j] * v[j] for j in range(size)) + 1e-8) for i in range(size)]
    return sum(u[i] * kernel[i][j] * v[j] * cost[i][j] for i in range(size) for j in range(size))


def by_loops(z: Tensor, teacher: Tensor, label: int, cost: Tensor, temperature: float) -> Tensor:
    others = [c for c in range(len(z)) if c != label]
    kept = [[float(cost[i, j]) for j in others] for i in others]
    return transported(*(probabilities(each[others], temperature) for each in (z, teacher)), kept)


@pytest.mark.equation
@pytest.mark.parametrize("symmetric", [True, False])
def test_wkd_l_is_the_papers_equation(symmetric: bool) -> None:
    method = wkd_l(6, weight=30.0, temperature=3.0, ce_weight=0.7, target_weight=0.4)
    random = torch.rand(6, 6) / 5
    method.cost.copy_(random + random.T if symmetric else random)
    z, teacher, data = logits(6), logits(6).detach(), batch(6)
    truths = [int(target) for target in data.targets]
    costs = [by_loops(z[n], teacher[n], truths[n], method.cost, 3.0) for n in range(BATCH)]
    targets = [-probabilities(teacher[n])[y] * torch.log(probabilities(z[n])[y]) for n, y in enumerate(truths)]
    expected = {"ce": 0.7 * labels(z, data), "target": 0.4 * mean(targets), "transport": 30 * mean(costs)}
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


def rows_of(data: Whole, label: int, count: int) -> Tensor:
    """The positions of the class's first maps, one below the other."""
    chosen = [n for n, target in enumerate(data.targets.tolist()) if target == label][:count]
    return torch.stack([data.whole.inputs[n, :, i, j] for n in chosen for i in range(2) for j in range(2)])


def alike(a: Tensor, b: Tensor) -> float:
    """Linear CKA of two matrices with as many rows."""
    a, b = a - a.mean(0), b - b.mean(0)
    cross, ours, theirs = ((x.T @ y).pow(2).sum().sqrt() for x, y in ((a, b), (a, a), (b, b)))
    return float(cross**2 / (ours * theirs))


@pytest.mark.equation
@pytest.mark.parametrize("targets", [[0, 1, 2, 3] * 3, [0, 1, 2, 0, 3, 3, 1, 2, 0, 1, 2]], ids=["even", "uneven"])
def test_wkd_ls_cost_is_how_unlike_the_classes_maps_are_by_linear_cka(targets: list[int]) -> None:
    data, teacher = training_set(torch.tensor(targets)), Teacher(CLASSES)
    method = wkd_l(kappa=2.0)
    method.prepare(data, [teacher])
    count = min(targets.count(c) for c in range(CLASSES))
    rows = [rows_of(data, c, count) for c in range(CLASSES)]
    expected = torch.tensor([[1 - math.exp(-2 * (1 - alike(a, b))) for b in rows] for a in rows]).clamp(min=0) + 1e-8
    torch.testing.assert_close(method.cost, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.equation
def test_wkd_ls_cost_by_the_classifier_is_the_angle_between_its_rows() -> None:
    teacher, method = Teacher(CLASSES), wkd_l(cost="classifier")
    method.prepare(training_set(torch.arange(8) % CLASSES), [teacher])
    rows = list(teacher.classifier.weight.detach())
    cosines = [[float(sum(a * b) / torch.sqrt(sum(a**2) * sum(b**2))) for b in rows] for a in rows]
    expected = torch.tensor([[max(1 - math.exp(-(1 - value)), 0) + 1e-8 for value in row] for row in cosines])
    torch.testing.assert_close(method.cost, expected, rtol=1e-9, atol=1e-12)


def test_wkd_ls_cost_by_logits_is_that_of_one_position_a_sample() -> None:
    teacher, data, method = Teacher(3), training_set(torch.arange(12) % 3), wkd_l(3, cost="logits")
    method.prepare(data, [teacher])
    said = teacher(data.whole.inputs).logits.detach()
    near = alike(said[0::3], said[1::3])
    close(method.cost[0, 1], torch.tensor(1 - math.exp(-(1 - near)) + 1e-8))


def test_a_class_without_images_is_unlike_all_others_and_like_itself() -> None:
    method = wkd_l()
    method.prepare(training_set(torch.tensor([0, 1, 3] * 3)), [Teacher(CLASSES)])
    far = torch.tensor(1 - math.exp(-1) + 1e-8)
    close(method.cost[2, [0, 1, 3]], far.expand(3))
    close(method.cost.diagonal(), torch.full((CLASSES,), 1e-8))


@pytest.mark.parametrize(("epoch", "share"), [(1, 1.0), (150, 1.0), (195, 0.5), (240, 0.0)])
def test_wkd_l_decays_by_half_a_cosine_behind_epoch_150_of_240(epoch: int, share: float) -> None:
    z, teacher, method = logits(), output(logits().detach()), wkd_l()
    full = method.loss(batch(), output(z), teacher)
    method.epoch, method.epochs = epoch, 240
    terms = method.loss(batch(), output(z), teacher)
    assert torch.equal(terms["target"], full["target"])  # never decayed
    close(terms["transport"], share * full["transport"])


def test_wkd_ls_defaults_are_those_of_the_authors_resnet32x4_configuration() -> None:
    method = registry.create("wkd_l")
    assert (method.weight, method.temperature, method.ce_weight, method.target_weight) == (600.0, 8.0, 1.0, 1.0)
    assert (method.kappa, method.source, method.decay_start) == (1.0, "maps", 150 / 240)


@pytest.mark.parametrize("scale", [0.0, 500.0], ids=["equal logits", "very confident"])
@pytest.mark.parametrize("classes", [2, 6])
def test_wkd_l_stays_finite(scale: float, classes: int) -> None:
    torch.set_default_dtype(torch.float32)
    z = (scale * torch.eye(classes)).requires_grad_()
    terms = wkd_l(classes).loss(batch(classes, classes), output(z), output(scale * torch.eye(classes).flip(0)))
    assert all(term.isfinite() for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()


def test_a_teacher_whose_maps_are_none_or_too_many_is_refused_with_another_cost_named() -> None:
    data = training_set(torch.arange(8) % CLASSES)
    with pytest.raises(NotApplicable, match=r"'stored' has not: set cost='classifier'"):
        wkd_l().prepare(data, [Teacher(CLASSES, features=False)])
    huge: Any = SimpleNamespace(name="huge", shapes=Shapes(CLASSES, 3, ((2**20, 16, 16),)))
    with pytest.raises(NotApplicable, match=r"^wkd_l would keep .*'huge' reads: set cost='logits'"):
        wkd_l().prepare(data, [huge])


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^wkd_l's cost is 'fc'"):
        registry.create("wkd_l", {"cost": "fc"})

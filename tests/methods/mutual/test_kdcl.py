"""kdcl's networks imitate an ensemble that each of the paper's four targets makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    network,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import Batch, KDBenchError, Output, registry
from kdbench.methods.mutual.kdcl import TARGETS


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


@pytest.mark.equation
@pytest.mark.parametrize("target", ["naive", "minlogit"])
@pytest.mark.parametrize("count", [2, 3])
def test_kdcl_is_the_papers_equation(target: str, count: int) -> None:
    students, data = [logits() for _ in range(count)], batch()
    method = registry.create("kdcl", {"target": target, "n_students": count, "views": "same", "kd_weight": 2.0})
    guide = kdcl_target(target, students, data)
    expected = {}
    for i, z in enumerate(students):
        expected[f"ce_{i}"] = labels(z, data)
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


@pytest.mark.parametrize("option", [{"target": "mean"}, {"peer": "assistant"}, {"views": "weak"}, {"n_students": 1}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^kdcl.*{next(iter(option.values()))}"):
        registry.create("kdcl", option)

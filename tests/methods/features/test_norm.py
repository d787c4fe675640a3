"""norm matches each segment of the expanded map with the teacher's, and deploys one linear layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    images,
    imitation,
    labels,
    network,
    output,
    real,
    squares,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, Output, registry
from kdbench.training.cost import deployed_cost


class Pooled(nn.Module):
    """A student that is a classifier on a pooled map of 3 channels."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.name, self.shapes = "pooled", network((3, 4, 4), embedding=3, classes=classes).shapes
        self.classifier = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Output:
        embedding = x.mean((2, 3))
        return Output(self.classifier(embedding), embedding, (x,))


def norm(options: dict[str, Any], teacher: tuple[int, ...] = (2, 4, 4), classes: int = CLASSES) -> tuple[Any, Pooled]:
    student = Pooled(classes)
    method = registry.create("norm", options)
    method.build(student, network(teacher, embedding=2, classes=classes))
    for layers in (method.transform.expand, method.transform.contract):
        nn.init.normal_(layers[1].weight, 1, 0.3)
        nn.init.normal_(layers[1].bias)
    return method, student


def by_channel(x: Tensor, layers: nn.Sequential) -> Tensor:
    """1x1 convolution, then BatchNorm by the batch's statistics, channel by channel."""
    convolution, bn = layers
    channels = []
    for c, weight in enumerate(convolution.weight.flatten(1)):
        values = sum(weight[i] * x[:, i] for i in range(x.shape[1]))  # [B, H, W]
        centred = values - values.mean()
        channels.append(centred / (centred.pow(2).mean() + bn.eps).sqrt() * bn.weight[c] + bn.bias[c])
    return torch.stack(channels, 1)


@pytest.mark.equation
@pytest.mark.parametrize("scale", [2.5, 0.0])
def test_norm_matches_each_segment_of_the_expanded_map_with_the_teachers_whole_map(scale: float) -> None:
    method, student = norm({"n": 3, "weight": 2.0, "ce_weight": 0.5, "scale": scale})
    method.epoch, method.epochs = 15, 240
    x, target, data = torch.randn(BATCH, 3, 4, 4), torch.randn(BATCH, 2, 4, 4), batch()
    terms = method.compute(data, [student(x)], [output(features=[target])])
    expanded = by_channel(x, method.transform.expand)
    z = student.classifier((x + by_channel(expanded, method.transform.contract)).mean((2, 3)))
    if scale:
        rows = [(row - row.mean()) / ((row - row.mean()).pow(2).mean() + 1e-7).sqrt() * scale for row in z]
        z = torch.stack(rows)
    matches = [squares(expanded[:, 2 * n : 2 * n + 2], target) for n in range(3)]
    expected = {"ce": 0.5 * labels(z, data), "match": 2.0 * 0.5 * sum(matches)}
    first, second = method.transform.expand[0].weight, method.transform.contract[0].weight
    agree(terms, expected, [first, second, student.classifier.weight])


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(1, 0.1), (10, 0.1), (11, 0.5), (20, 0.5), (21, 1.0), (180, 1.0), (181, 0.5), (211, 0.1), (240, 0.1)],
)
def test_norms_matching_term_rises_and_falls_over_the_training(epoch: int, factor: float) -> None:
    method, student = norm({"n": 2})
    method.epoch, method.epochs = epoch, 240
    x, target = torch.randn(BATCH, 3, 4, 4), torch.randn(BATCH, 2, 4, 4)
    term = method.compute(batch(), [student(x)], [output(features=[target])])["match"]
    expanded = by_channel(x, method.transform.expand)
    close(term, factor * (squares(expanded[:, :2], target) + squares(expanded[:, 2:], target)))


@pytest.mark.parametrize(("ours", "theirs"), [(4, 8), (8, 4)])
def test_norm_max_pools_the_larger_map(ours: int, theirs: int) -> None:
    method, student = norm({"n": 1})
    method.epochs = 1
    x, target = torch.randn(BATCH, 3, ours, ours), torch.randn(BATCH, 2, theirs, theirs)
    term = method.compute(batch(), [student(x)], [output(features=[target])])["match"]
    expanded = by_channel(x, method.transform.expand)
    pooled = [nn.functional.max_pool2d(each, each.shape[2] // 4) for each in (expanded, target)]
    close(term, 0.1 * squares(*pooled))


def test_norm_deploys_one_linear_layer_that_says_what_the_transformed_student_says() -> None:
    student, teacher = real("cifar_resnet8"), real("cifar_resnet8x4", seed=1)
    method = registry.create("norm")
    method.build(student, teacher)
    method.train()
    for _ in range(3):  # so that the running statistics are no longer those of the start
        method.respond(student(images(count=8).inputs))
    deployed = method.deploy(student).eval()
    x = images().inputs
    assert method.transform.training
    close(deployed(x), method.eval().respond(student.eval()(x)).logits)
    assert deployed_cost(deployed, x[:1])["deployed_parameters"] == sum(p.numel() for p in student.parameters())


def test_norm_leaves_the_logits_of_two_classes_as_they_are() -> None:
    method, student = norm({"n": 1}, classes=2)
    x = torch.randn(BATCH, 3, 4, 4)
    contracted = x + by_channel(by_channel(x, method.transform.expand), method.transform.contract)
    close(method.respond(student(x)).logits, student.classifier(contracted.mean((2, 3))))


def test_the_other_parts_of_a_composition_see_the_transformed_student() -> None:
    method = registry.create("norm+kd", {"norm.n": 2})
    student = Pooled()
    method.build(student, network((2, 4, 4), embedding=2))
    x, theirs, data = torch.randn(BATCH, 3, 4, 4), output(features=[torch.randn(BATCH, 2, 4, 4)]), batch()
    terms = method.compute(data, [student(x)], [theirs])
    transformed = method.methods[0].respond(student(x))
    assert not torch.allclose(transformed.logits, student(x).logits)
    close(terms["kd"], 0.9 * imitation(transformed.logits, theirs.logits, 4.0))
    close(terms["ce"], 0.1 * labels(transformed.logits, data))


def test_norm_transforms_the_second_view_too() -> None:
    method, student = norm({"n": 1})
    x = torch.randn(BATCH, 3, 4, 4)
    whole = Output(**{**vars(student(x)), "strong": student(2 * x)})
    strong = method.respond(whole).strong
    assert strong is not None
    close(strong.logits, method.respond(student(2 * x)).logits)


@pytest.mark.parametrize("name", ["cifar_wrn_16_1", "cifar_mobilenetv2"])
def test_norm_stands_behind_the_map_that_the_head_pools(name: str) -> None:
    student, teacher = real(name), real("cifar_wrn_16_1", seed=1)
    method = registry.create("norm", {"n": 2})
    method.bind([student], [teacher])
    data = images()
    ours, theirs = student(data.inputs), teacher(data.inputs)
    expanded, contracted = method.transform(ours.final)
    said = method.respond(ours)
    close(said.embedding, contracted.mean((2, 3)))
    assert [id(feature) for feature in said.features] == [id(feature) for feature in ours.features]
    target = nn.functional.adaptive_max_pool2d(theirs.final, ours.final.shape[2])
    close(
        method.compute(data, [ours], [theirs])["match"],
        0.1 * sum(squares(expanded[:, 64 * n : 64 * n + 64], target) for n in range(2)),
    )


def test_norm_refuses_a_classifier_that_reads_something_else() -> None:
    with pytest.raises(NotApplicable, match="'some' has not"):
        registry.create("norm").build(network((3, 4, 4), embedding=5), network((3, 4, 4)))


def test_norm_refuses_to_expand_to_nothing() -> None:
    with pytest.raises(KDBenchError, match="n is 0"):
        registry.create("norm", {"n": 0})

"""kd++ points the embedding to the teacher's class mean, makes it long, and starts without KD."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    dataset,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    mean,
    network,
    output,
)
from torch import Tensor, nn

from kdbench import Output, registry
from kdbench.registry.composition import split


@pytest.mark.equation
def test_kd_plus_plus_points_the_embedding_to_the_teachers_class_mean_and_makes_it_long() -> None:
    method = registry.create("kd++")
    method.build(network(embedding=6), network(embedding=6))
    method.epoch, method.epochs = 6, 240
    method.directions.copy_(nn.functional.normalize(torch.randn(CLASSES, 6), dim=1))
    z, teacher, data = logits(), logits().detach(), batch()
    lengths = torch.tensor([0.2, 0.5, 1.0, 3.0, 9.0])[:, None]  # shorter and longer than the teacher's
    ours, theirs = (lengths * torch.randn(BATCH, 6)).requires_grad_(), torch.randn(BATCH, 6)
    terms = method.loss(data, output(z, embedding=ours), output(teacher, embedding=theirs))
    costs = []
    for n in range(BATCH):
        ours_long, theirs_long = ours[n].pow(2).sum().sqrt(), theirs[n].pow(2).sum().sqrt()
        direction = method.directions[int(data.targets[n])]
        longer = ours_long if bool(ours_long > theirs_long) else theirs_long
        costs.append(1 - sum(a * b for a, b in zip(ours[n], direction, strict=True)) / longer)
    assert 0 < sum(float(o.norm() > t.norm()) for o, t in zip(ours, theirs, strict=True)) < BATCH
    expected = {
        "ce": labels(z, data),
        "kd": 5 / 20 * imitation(z, teacher, 4.0),
        "nd": 2.0 * mean(costs),
    }
    agree(terms, expected, [z, ours])


@pytest.mark.parametrize(("epoch", "ramp"), [(1, 0.0), (2, 0.05), (21, 1.0), (240, 1.0)])
def test_kd_plus_plus_starts_without_kd(epoch: int, ramp: float) -> None:
    method = registry.create("kd++", {"kd_weight": 3.0})
    method.build(network(), network())
    method.epoch, method.epochs = epoch, 240
    z, teacher = logits(), logits().detach()
    embedding = torch.rand(BATCH, 3)
    term = method.loss(batch(), output(z, embedding=embedding), output(teacher, embedding=embedding))["kd"]
    close(term, 3 * ramp * imitation(z, teacher, 4.0))


def test_kd_plus_pluss_directions_are_the_teachers_class_means_of_length_one() -> None:
    data = dataset(torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 0]))
    embeddings = torch.randn(len(data), 5)
    taught = iter(embeddings.split(8))

    def teacher(inputs: Tensor) -> Output:
        return output(torch.zeros(len(inputs), CLASSES), embedding=next(taught))

    method = registry.create("kd++")
    method.build(network(embedding=5), network(embedding=5))
    method.prepare(data, [teacher])  # type: ignore[list-item]
    for c in range(3):
        average = mean(embeddings[n] for n in range(len(data)) if int(data.targets[n]) == c)
        close(method.directions[c], average / average.pow(2).sum().sqrt())
    assert torch.equal(method.directions[3], torch.zeros(5))  # a class without samples


def test_kd_plus_plus_brings_a_student_of_another_width_to_the_teachers() -> None:
    method = registry.create("kd++")
    method.build(network(embedding=6), network(embedding=4))
    assert [type(layer) for layer in method.transfer][1:] == [nn.Dropout, nn.Linear]
    assert isinstance(method.transfer[0], nn.BatchNorm1d)
    assert not method.transfer[2].bias.any()
    method.build(network(embedding=4), network(embedding=4))
    assert isinstance(method.transfer, nn.Identity)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("kd++", ["kd++"]),
        ("crd+kd", ["crd", "kd"]),
        ("dkd+kd++", ["dkd", "kd++"]),
        ("kd+++crd", ["kd++", "crd"]),
        ("crd+kd+++at", ["crd", "kd++", "at"]),
    ],
)
def test_a_name_may_end_in_pluses(name: str, parts: list[str]) -> None:
    assert split(name) == parts
    assert registry.get(name).info.name == name

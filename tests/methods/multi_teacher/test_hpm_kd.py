"""hpm_kd mixes its teachers by attention, trains a chain, and changes its temperature."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    Whole,
    agree,
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
from torch import nn

from kdbench import Batch, KDBenchError, NotApplicable, registry
from kdbench.methods.multi_teacher.hpm_kd import heuristic_attention, heuristic_temperature


@pytest.mark.parametrize("option", [{"assistants": -1}, {"attention": "soft"}, {"schedule": "linear"}])
def test_hpm_kd_refuses_an_option_that_it_does_not_know(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"hpm_kd.*{next(iter(option.values()))}"):
        registry.create("hpm_kd", option)


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


@pytest.mark.equation
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


@pytest.mark.equation
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

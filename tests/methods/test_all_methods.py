"""What holds for every method: finite losses and gradients at the edges, golden vectors that name their source."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    Whole,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    logits,
    network,
    output,
    total,
)

from kdbench import Batch, Method, MultiTeacherMethod, MutualMethod, registry
from kdbench.tasks.image.networks import create


@pytest.mark.parametrize("path", sorted(goldens.GOLDEN.glob("*.npz")), ids=lambda path: path.stem)
def test_a_golden_file_names_its_source(path: Path) -> None:
    with np.load(path) as file:
        meta = json.loads(str(file["meta"]))
    assert meta["repo"]
    assert meta["commit"]


def plain(name: str) -> bool:
    """One student and one teacher, and a step that is nothing but the loss."""
    cls = registry.get(name)
    alone = not issubclass(cls, MutualMethod | MultiTeacherMethod) and registry.create(name).members() == ("student",)
    return alone and cls.step is Method.step


@pytest.mark.parametrize("size", [2, 1])
@pytest.mark.parametrize("classes", [2, 100])
@pytest.mark.parametrize("name", [*filter(plain, registry.names("image"))])
def test_a_loss_and_its_gradients_are_finite(name: str, classes: int, size: int) -> None:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    student, teacher = (
        create("cifar_resnet8", num_classes=classes, in_chans=3, input_size=(3, 16, 16)) for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    images, targets = torch.randn(104, 3, 16, 16), torch.arange(104) % classes
    method = registry.create(name)
    method.epoch, method.epochs = 120, 240
    method.bind([student], [teacher])
    method.prepare(Whole(Batch(images, targets, torch.arange(104))), [teacher])
    few = Batch(images[:size], targets[:size], torch.arange(size), images[:size].flip(3), follow=lambda maps: maps)
    for phase in method.phases():
        method.phase = phase.name
        ours, theirs = (
            dataclasses.replace(network(few.inputs), strong=network(few.strong)) for network in (student, teacher)
        )
        terms = method.compute(few, [ours], [theirs])
        assert all(term.isfinite() for term in terms.values())
        sum(terms.values()).backward()
        for parameter in [*student.parameters(), *method.parameters()]:
            assert parameter.grad is None or parameter.grad.isfinite().all()


def on_logits(name: str) -> bool:
    """A loss of logits and labels of one view, and nothing else."""
    cls = registry.get(name)
    return plain(name) and cls.info.family in ("baseline", "logits") and not cls.needs


@pytest.mark.parametrize("name", [*filter(on_logits, registry.names("image"))])
@pytest.mark.parametrize(("classes", "size"), [(2, BATCH), (CLASSES, 1)], ids=["two classes", "one sample"])
def test_losses_on_logits_are_finite_with_two_classes_and_with_one_sample(name: str, classes: int, size: int) -> None:
    method = registry.create(name)
    method.build(network(classes=classes), network(classes=classes))
    z, teacher = logits(classes, size), logits(classes, size).detach()
    terms = method.loss(batch(classes, size), output(z), output(teacher))
    assert all(term.isfinite() and not term.shape for term in terms.values())
    assert torch.autograd.grad(total(terms), z)[0].isfinite().all()

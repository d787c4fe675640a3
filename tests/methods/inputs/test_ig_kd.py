"""ig_kd distills on images mixed with integrated gradients, as plain loops have it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.inputs import (
    FakeStep,
    agree,
    euclidean,
    images,
    ready,
    same,
    state,
    step_on,
    teacher_and_student,
    trains_in_bf16_and_resumes,
    whole,
)
from support.loops import (
    CLASSES,
    close,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    mean,
)
from torch import Tensor

from kdbench import Batch, KDBenchError, NotApplicable, registry
from kdbench.connectors import pixel_range
from kdbench.methods.inputs import ig_kd
from kdbench.tasks.image.data import load
from kdbench.tasks.image.data.loader import DeviceLoader


def integrated(teacher: Any, x: Tensor, target: int) -> Tensor:
    """sum_c |IG| of one image by Gauss and Legendre's rule with 50 points: `[H, W]`."""
    points, weights = np.polynomial.legendre.leggauss(50)
    total = torch.zeros_like(x)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        between = (point * x).requires_grad_()
        (g,) = torch.autograd.grad(teacher(between[None]).logits[0, target], between)
        total = total + weight * g
    return sum((total * x).abs())


def test_ig_kds_maps_are_integrated_gradients_of_the_labels_logit() -> None:
    teacher, student = teacher_and_student()
    inputs = images(10)  # two batches of the data set
    before = state(teacher)
    method = ready("ig_kd", teacher, student, inputs)
    assert same(before, state(teacher))
    for i in range(10):
        found = ig_kd.attribution_maps(teacher, inputs[i : i + 1], torch.tensor([i % CLASSES]), 50)[0]
        expected = integrated(teacher, inputs[i], i % CLASSES)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)  # captum's weights are float32
        torch.testing.assert_close(method.maps[i].double(), expected / expected.max(), rtol=1e-3, atol=1e-6)


def overlaid(x: Tensor, a: Tensor, power: float, low: Tensor, high: Tensor) -> Tensor:
    """x / 2 + g / 2 in pixels from 0 to 1, of one image `[C, H, W]`, and back to what the networks read."""
    g = torch.stack([value ** (2.0**power) for value in a.flatten()])
    g = ((g - min(g)) / (max(g) - min(g))).reshape(a.shape)
    pixels = [(x[c] - low[c]) / (high[c] - low[c]) for c in range(len(x))]
    return torch.stack([(p / 2 + g / 2) * (high[c] - low[c]) + low[c] for c, p in enumerate(pixels)])


@pytest.mark.equation
def test_ig_kd_mixes_some_images_with_their_maps_and_distills_on_them() -> None:
    teacher, student = teacher_and_student()
    inputs = images(8)
    reference = copy.deepcopy(student)
    hyperparameters = {"parts": "KD_IG_AT", "overlay_prob": 0.5, "alpha": 0.3, "stage": 1}
    method = ready("ig_kd", teacher, student, inputs, **hyperparameters)
    batch = Batch(inputs[[6, 1, 3, 2, 5]], torch.tensor([2, 1, 3, 2, 1]), torch.tensor([6, 1, 3, 2, 5]))
    step = FakeStep(batch, [student], [teacher])
    torch.manual_seed(1)
    terms = method.step(step)

    torch.manual_seed(1)
    power, lot = (draw.flatten() for draw in torch.rand(2, 5, 1, 1, 1))
    assert 0 < (lot < 0.5).sum() < 5
    low, high = inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3))
    maps = [method.maps[i].double() for i in batch.indices]
    seen = torch.stack(
        [overlaid(x, maps[i], power[i], low, high) if lot[i] < 0.5 else x for i, x in enumerate(batch.inputs)]
    )
    close(student.seen[-1], seen)
    ours, theirs = reference(seen), teacher(batch.inputs)

    def attention(feature: Tensor) -> Tensor:
        a = sum(plane**2 for plane in feature) / len(feature)
        return a / euclidean(a)

    distances = [
        ((attention(s) - attention(t)) ** 2).sum() / 16
        for s, t in zip(ours.features[0], theirs.features[0], strict=True)
    ]
    expected = {
        "ce": 0.7 * mean(cross_entropy(ours.logits[i], int(batch.targets[i])) for i in range(5)),
        "kd": 0.3 * mean(kl(ours.logits[i], theirs.logits[i], 2.5) for i in range(5)),
        "attention": 0.8 * mean(distances),
    }
    agree(terms, student, expected, reference)


@pytest.mark.parametrize(
    ("parts", "names"),
    [("KD", {"ce", "kd"}), ("IG", {"ce"}), ("AT", {"ce", "attention"}), ("IG_AT", {"ce", "attention"})],
)
def test_ig_kds_parts_choose_the_terms(parts: str, names: set[str]) -> None:
    teacher, student = teacher_and_student()
    inputs = images(8)
    method = ready("ig_kd", teacher, student, inputs, parts=parts, overlay_prob=1.0, stage=1)
    step = step_on(teacher, student, inputs)
    terms = method.step(step)
    assert terms.keys() == names
    assert torch.equal(student.seen[-1], inputs) == ("IG" not in parts)
    assert hasattr(method, "maps") == ("IG" in parts)
    assert method.needs == ({"maps"} if "AT" in parts else set())
    weight = 0.99 if parts == "KD" else 1.0  # alpha counts only beside a divergence
    z = copy.deepcopy(student)(student.seen[-1]).logits
    close(terms["ce"], weight * mean(cross_entropy(z[i], i % CLASSES) for i in range(8)))


def test_ig_kd_out_of_line_gives_each_sample_another_images_map_and_answer() -> None:
    teacher, student = teacher_and_student()
    inputs = images(16)
    aligned = ready("ig_kd", teacher, student, inputs)
    torch.manual_seed(0)
    method = ready("ig_kd", teacher, student, inputs, aligned=False, parts="KD_IG_AT", stage=1, alpha=0.5)
    theirs = teacher(inputs)
    orders = [
        [int((bank - row).flatten(1).abs().sum(1).argmin()) for row in shuffled]
        for bank, shuffled in ((aligned.maps, method.maps), (theirs.logits, method.teacher_logits))
    ]
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert orders[0] != orders[1]
    attention = F.normalize(theirs.features[0].pow(2).mean(1).flatten(1), dim=1)
    close(method.teacher_attention, attention[orders[1]])  # logits and attention come from one run
    batch = whole(inputs).whole
    student.eval()
    ours = student(inputs)
    terms = method.loss(batch, ours, theirs)
    close(terms["kd"], 0.5 * mean(kl(ours.logits[i], theirs.logits[orders[1][i]], 2.5) for i in range(16)))


def digits(side: int = 8) -> DeviceLoader:
    return DeviceLoader(load("digits", image_size=side), 32, augment=("pad_crop:1", "flip"), seed=3)


def test_ig_kds_maps_follow_their_images_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    loader = digits()
    method = registry.create("ig_kd", {"parts": "IG", "overlay_prob": 1.0})
    method.low, method.high = pixel_range(loader)
    method.maps = loader.train_images[:, 0].half() / 16  # as if the images were their own maps
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.zeros(*size))  # u = 1
    batch = next(loader.epoch(1))
    brightest = batch.inputs.amax((1, 2, 3), keepdim=True)
    stretched = (batch.inputs - method.low) / (brightest - method.low)
    expected = (batch.inputs + method.low + stretched * (method.high - method.low)) / 2
    torch.testing.assert_close(method.overlay(batch), expected, rtol=1e-3, atol=1e-3)


def test_a_batchs_follow_moves_maps_of_the_size_that_networks_read() -> None:
    loader = digits(96)  # stored at 8 px, resized for each batch
    plain = torch.cat([batch.inputs for batch in loader.batches()])
    batch = next(loader.epoch(1))
    assert batch.follow is not None
    assert plain.shape[-1] == 96
    black = plain.amin()
    moved = batch.follow(plain[batch.indices] - black) + black
    unmoved = (plain[batch.indices] - batch.inputs).abs().mean()
    assert moved.shape == batch.inputs.shape
    assert (moved - batch.inputs).abs().mean() < 0.4 * unmoved  # both ways of resizing blur


def test_ig_kd_keeps_its_maps_out_of_checkpoints() -> None:
    teacher, student = teacher_and_student()
    for options in ({}, {"aligned": False}):
        assert ready("ig_kd", teacher, student, images(), **options).state_dict().keys() == {"low", "high"}


def test_ig_kd_shows_a_constant_map_as_black() -> None:
    assert torch.equal(ig_kd.minmax(torch.full((2, 1, 3, 3), 0.7)), torch.zeros(2, 1, 3, 3))


def test_ig_kd_refuses_parts_and_stages_that_there_are_not() -> None:
    for parts in ("KD_XX", "KD_KD", ""):
        with pytest.raises(KDBenchError, match="ig_kd's parts are"):
            registry.create("ig_kd", {"parts": parts})
    teacher, student = teacher_and_student()
    with pytest.raises(NotApplicable, match="network 'tiny' has 1 stages"):
        ready("ig_kd", teacher, student, images(), parts="AT", stage=2)


def test_methods_on_inputs_need_images() -> None:
    tokens = torch.zeros(4, 7, dtype=torch.int64)
    with pytest.raises(NotApplicable, match="ig_kd changes images, which network 'tiny' does not read"):
        ready("ig_kd", *teacher_and_student(), tokens)


@pytest.mark.parametrize(
    "hyperparameters",
    [{"parts": "KD_IG_AT", "ig_steps": 2}, {"parts": "KD_IG_AT", "ig_steps": 2, "aligned": False}],
    ids=str,
)
def test_variants_train_in_bf16_and_resume_to_the_same_bits(tmp_path: Path, hyperparameters: dict[str, Any]) -> None:
    trains_in_bf16_and_resumes(tmp_path, "ig_kd", **hyperparameters)

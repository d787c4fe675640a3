"""A method's steps on an accelerator: none waits, but where the table says why, and none adds in a random order.

A CPU stands in for the accelerator: `support.waits` and `support.sums` say what is taken for either. What `prepare`
does, once a training, is not counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from support.sums import UnorderedSums
from support.waits import Waits
from torch import Tensor, nn

from kdbench import Batch, NotApplicable, registry
from kdbench.method import both_views
from kdbench.tasks.image.data import augment
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner

# method: what waits and how often in a step, and why
WAITS: dict[str, tuple[dict[str, int], str]] = {
    "kdsvd": (
        {"_linalg_eigh": 6},
        "the eigenvectors of each stage's map, on both sides: an accelerator's eigh reads whether it converged",
    ),
}

# what a method does with other options than its defaults
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("aekd", {"on": "features"}),
    ("crd", {"negatives": 3}),
    ("hpm_kd", {"attention": "heuristic", "schedule": "heuristic"}),
    ("hpm_kd", {"schedule": "loss"}),
    ("ig_kd", {"parts": "KD_IG_AT"}),
    ("ig_kd", {"parts": "KD_IG_AT", "aligned": False}),
    ("kdcl", {"target": "general"}),
    ("mhkd", {"branch_dropout": 0.5, "head_pool": 2}),
    ("mmkd", {"buffer": 8}),
    ("nkd", {"gamma": 3.5, "temperature": 3.0}),
    ("rld", {"standardise": True}),
    ("sdd", {"base": "dkd"}),
    ("sdd", {"base": "nkd", "official_mask": False}),
    ("tekap", {"feature_weight": 0.8, "official_anchor": False}),
    ("uhkd", {"representation": "amplitude"}),
    ("uhkd", {"domain": "space"}),
]
EPOCHS = 8
# what makes a step smaller and changes nothing about how it works
SMALLER: dict[str, dict[str, Any]] = {
    "ig_kd": {"ig_steps": 2},
    "mhkd": {"width": 8},
    "bss": {"attack_steps": 2},
    "mmkd": {"inner_steps": 1},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("waits")
    return Bench(folder, teacher="cifar_resnet8", samples=8, batch_size=4, image_size=8, epochs=EPOCHS)


@pytest.fixture(autouse=True)
def _from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `augment.sent` sends does not wait; anything else of the loader's that is copied to the device does."""
    monkeypatch.setattr(augment, "sent", lambda numbers, device: numbers.to(device, non_blocking=True))


def steps(learner: Learner) -> Iterator[tuple[int, Batch]]:
    """The first batch of the first and the last epoch of each phase."""
    for start, end in zip([0, *learner.bounds], learner.bounds, strict=False):
        for epoch in sorted({start, end - 1}):
            learner.epoch = epoch
            learner.begin_epoch()
            yield 0, next(iter(learner.data.epoch(epoch)))


def followed(batch: Batch) -> Batch:
    """The batch as a loader of CIFAR gives it: its crops and flips can be repeated."""
    moves, draws = augment.Augment(["pad_crop:1", "flip"]), torch.Generator().manual_seed(0)
    size = batch.inputs.shape[-2:]
    return dataclasses.replace(batch, follow=lambda maps: moves.follow(maps, moves.draw(len(batch), size, draws)))


def learner_of(bench: Bench, method: str, **options: Any) -> Learner:
    """Maps of sizes that do not divide, where the method reads maps and can work on such: 5, 3, 2, 1 and 20, 10, 5."""
    odd = bench.variant("odd", student="test_resnet", image_size=20)
    options = SMALLER.get(method, {}) | options
    if registry.get(method).needs & {"features", "maps"}:
        with suppress(NotApplicable):
            return odd.learner(odd.cell(method, **options))
    return bench.learner(bench.cell(method, **options))


def found_in(bench: Bench, method: str, **options: Any) -> tuple[Counter[str], Counter[str]]:
    """The most that one step waits, by what it waits for, and the sums in a random order of all steps."""
    learner = learner_of(bench, method, **options)
    learner.peak_memory_mb, learner._tried = 0.0, True  # what comes once, in a training's first step
    most: Counter[str] = Counter()
    waits, sums = Waits(), UnorderedSums()
    for number, batch in steps(learner):
        strong = batch.strong if learner.wants_strong_view else None
        with torch.no_grad():
            outputs = [both_views(teacher, batch.inputs, strong) for teacher in learner.teachers]
        waits.found.clear()
        with waits, sums:
            learner.train_step(number, followed(batch), outputs)
        most |= waits.found
    return most, sums.found


@pytest.mark.parametrize("method", registry.names("image"))
def test_a_step_neither_waits_for_the_accelerator_nor_adds_in_a_random_order(bench: Bench, method: str) -> None:
    waits, sums = found_in(bench, method)
    assert waits == Counter(WAITS.get(method, ({}, ""))[0])
    assert not sums


def test_the_table_of_waits_says_why_and_names_methods() -> None:
    assert WAITS.keys() <= set(registry.names("image"))
    assert all(counts and reason for counts, reason in WAITS.values())


@pytest.mark.parametrize(("method", "options"), OPTIONS, ids=lambda value: str(value))
def test_a_step_with_other_options_does_neither(bench: Bench, method: str, options: dict[str, Any]) -> None:
    assert found_in(bench, method, **options) == ({}, {})


LOGITS = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    "wait",
    [
        lambda z: z.sum().item(),
        lambda z: float(z.sum()),
        lambda z: bool((z > 1).any()),
        lambda z: z.tolist(),
        lambda z: z.cpu(),
        lambda z: z[z > 3],
        lambda z: z.nonzero(),
        lambda z: z[z[:, 0].argmin()],
        lambda z: z[[0, 2]],
        lambda z: z[torch.arange(2)],
        lambda z: z.long().flatten().bincount(),
        lambda z: torch.linalg.eigh(z[:3, :3]),
        lambda z: torch.linalg.solve(torch.eye(3, device=z.device), z[:3, :3]),
        lambda z: torch.eye(4).to(z),
        lambda z: torch.arange(3).to(z.device),
        lambda z: torch.tensor([1.0, 2.0], device=z.device),
        lambda z: z.new_tensor([1.0, 2.0]),
        lambda z: z @ torch.eye(4),
        lambda z: z.new_zeros(3).__setitem__(0, 1.0),
        lambda z: z.softmax(1).multinomial(1),
        lambda z: z.repeat_interleave(z[0].long(), dim=1),
    ],
)
def test_a_wait_is_seen(wait: Any) -> None:
    with Waits() as waits:
        wait(LOGITS)
    assert waits.found


@pytest.mark.parametrize(
    "work",
    [
        lambda z: z[:, 1:].softmax(1).sum(),
        lambda z: z.gather(1, z.argmax(1, keepdim=True)),
        lambda z: torch.randperm(3).sort().values.tolist(),
        lambda z: z[torch.arange(2, device=z.device)],
        lambda z: z * torch.eye(4, device=z.device)[:3],
        lambda z: F.one_hot(z.argmax(1), 4),
        lambda z: z.new_zeros(3, 2).__setitem__(0, 1.0),
        lambda z: torch.where(z > 1, z, 0.0).masked_fill(z > 5, 1.0),
        lambda z: torch.arange(3).to(z.device, non_blocking=True),
        lambda z: z.softmax(1).multinomial(3, replacement=True),
        lambda z: torch.linalg.solve_ex(torch.eye(3, device=z.device), z[:3, :3]),
    ],
)
def test_work_that_the_host_need_not_wait_for_is_none(work: Any) -> None:
    with Waits() as waits:
        work(LOGITS)
    assert not waits.found


@pytest.mark.parametrize(
    ("resize", "found"),
    [
        (lambda x: F.interpolate(x, (9, 9), mode="bilinear"), True),
        (lambda x: F.interpolate(x, (9, 9), mode="bilinear", antialias=True), True),
        (lambda x: F.interpolate(x, (9, 9), mode="nearest"), False),
        (lambda x: F.adaptive_avg_pool2d(x, 4), True),
        (lambda x: F.adaptive_max_pool2d(x, 4), True),
        (lambda x: F.adaptive_avg_pool2d(x, 3), False),
    ],
)
def test_a_sum_in_a_random_order_is_seen(resize: Any, found: bool) -> None:
    y = resize(torch.ones(1, 1, 6, 6, requires_grad=True))
    with UnorderedSums() as sums:
        y.sum().backward()
    assert bool(sums.found) == found


def test_a_wait_of_the_backward_pass_is_seen() -> None:
    z = LOGITS.clone().requires_grad_()
    chosen = z[z > 3].sum()
    with Waits() as waits:
        chosen.backward()
    assert waits.found == {"index_put by a mask": 1}


def test_numbers_go_to_a_gpu_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    numbers = mock.Mock(spec=Tensor)
    augment.sent(numbers, torch.device("cuda"))
    assert numbers.mock_calls == [
        mock.call.pin_memory(),
        mock.call.pin_memory().to(torch.device("cuda"), non_blocking=True),
    ]


def test_mmkds_count_of_steps_is_back_on_the_host_after_a_resume() -> None:
    """A checkpoint comes back on the device as a whole, and Adam reads its count in each step."""
    method, layer = registry.create("mmkd"), nn.Linear(2, 1)
    method.adam = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    method.adam.step()
    with Waits() as waits:
        method.set_extra_state({"held": 0, "adam": method.adam.state_dict()})
    assert waits.found["cpu"] == 2  # weight and bias

"""A loader on an accelerator: an epoch's batches are made together, to the same images, and no step waits.

A CPU stands in for it: it is told that it works behind its host.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.waits import Waits
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch
from kdbench.seeding import generator
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks.image import task as image_task
from kdbench.tasks.image.data import DeviceLoader, ImageData, augment, loader
from kdbench.tasks.image.data.augment import AUGMENTATIONS, Augment, flip
from kdbench.tasks.image.task import ImageTask

CHAINS: list[tuple[str, ...]] = [
    (),
    *((name,) for name in AUGMENTATIONS),
    ("pad_crop:4", "flip"),
    ("flip", "pad_crop:2", "cutout:4"),
    ("random_resized_crop:0.3", "flip:0.1", "rand_augment:3:7", "cutout:2"),
]


def images(count: int = 150, channels: int = 3, size: int = 12) -> ImageData:
    drawn = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator("ahead"))
    targets, mean = torch.arange(count) % 2, (0.5, 0.4, 0.3)[:channels]
    return ImageData("toy", drawn, targets, drawn[:70], targets[:70], 2, ("a", "b"), mean, (0.2,) * channels)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent from pinned memory does not wait; anything else that is copied or read back does."""
    for place in (augment, loader, image_task):
        monkeypatch.setattr(place, "works_behind", lambda device: True)
    for place in (augment, loader):
        monkeypatch.setattr(place, "sent", lambda numbers, device: numbers.to(device, non_blocking=True))


def batches(chain: Sequence[str], channels: int = 3, epoch: int = 2, **options: Any) -> list[Batch]:
    options = {"seed": 3, "channels_last": True, "strong": True} | options
    return list(DeviceLoader(images(channels=channels), 16, augment=chain, **options).epoch(epoch))


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for mine, others in ((a.inputs, b.inputs), (a.strong, b.strong)):
            assert mine is not None
            assert others is not None
            assert mine.stride() == others.stride()
            assert torch.equal(mine, others)
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.targets, b.targets)
        maps = torch.arange(float(len(a) * 144)).reshape(-1, 1, 12, 12)
        assert a.follow is not None
        assert b.follow is not None
        assert torch.equal(a.follow(maps), b.follow(maps))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_an_epoch_that_is_made_at_once_has_the_bits_of_batch_by_batch(
    chain: tuple[str, ...], channels: int, request: pytest.FixtureRequest
) -> None:
    one_by_one = batches(chain, channels, together=1)
    assert_same(batches(chain, channels), one_by_one)  # as on a CPU
    request.getfixturevalue("accelerator")
    for together in (None, 1, 5 * 16 * 3 * 144):  # an epoch, a batch, some batches at a time
        assert_same(batches(chain, channels, together=together), one_by_one)


def test_all_of_an_epoch_is_made_at_once_where_memory_allows_it(accelerator: None) -> None:
    assert len(list(DeviceLoader(images(), 16, augment=("pad_crop", "flip"))._views(0))) == 1


def cifar(chain: Sequence[str], **options: Any) -> int:
    """How many of CIFAR's images are augmented at a time, without its images."""
    data = images(64, size=32)
    return DeviceLoader(data, 64, augment=chain, **options)._together * 64


def test_how_many_are_made_at_once_is_bounded_by_what_the_chain_needs(accelerator: None) -> None:
    plain = cifar(("flip",))
    assert plain > 50_000, "an epoch of CIFAR"
    padded = cifar(("pad_crop:4", "flip"))
    assert plain / padded == pytest.approx((40 / 32) ** 2, rel=0.01)
    assert padded > 50_000
    assert plain / cifar(("random_resized_crop",)) == pytest.approx(4, rel=0.01)
    assert plain / cifar(("flip",), strong=True) == pytest.approx(4, rel=0.01)
    assert cifar(("flip",), together=64 * 10 * 3072) == 640


def test_a_cpu_makes_few_at_once_as_ever() -> None:
    data = images(64, size=32)
    assert DeviceLoader(data, 64)._together == 2**20 // (64 * 3072)
    assert DeviceLoader(data, 64, strong=True)._together == 2**22 // (64 * 3072)


@pytest.mark.parametrize(
    "chain", [(), ("pad_crop:4", "flip"), ("pad_crop:4", "flip", "cutout:4"), ("random_resized_crop", "flip")], ids=str
)
def test_an_epoch_waits_for_nothing(accelerator: None, chain: tuple[str, ...]) -> None:
    made = DeviceLoader(images(), 16, augment=chain, seed=3, channels_last=True)
    maps = torch.arange(16.0 * 144).reshape(-1, 1, 12, 12)
    with Waits() as waits:
        for batch in made.epoch(0):
            assert batch.follow is not None
            batch.follow(maps[: len(batch)])
    assert not waits.found


def test_a_strong_view_waits_while_it_is_made_and_in_no_step(accelerator: None) -> None:
    made = DeviceLoader(images(), 16, augment=("pad_crop:4", "flip"), seed=3, channels_last=True, strong=True)
    epoch = made.epoch(0)
    next(epoch)
    with Waits() as waits:
        assert sum(1 for _ in epoch) == made.steps_per_epoch - 1
    assert not waits.found


def test_what_a_cpu_would_ask_its_device_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the form of CPUs the same count finds the question which images are to be mirrored."""
    monkeypatch.setattr(augment, "sent", lambda numbers, device: numbers.to(device, non_blocking=True))
    with Waits() as waits:
        flip(torch.zeros(4, 1, 2, 2), torch.zeros(4, device=torch.device("cpu")), [0.0])
    assert waits.found["nonzero"] == 1


def test_numbers_that_lie_on_the_device_are_not_sent_again() -> None:
    numbers = torch.ones(3)
    assert augment.sent(numbers, torch.device("cpu")) is numbers


# ------------------------------------------------------------------------------------------------ the test set


def task(precision: str = "fp32", **options: Any) -> ImageTask:
    numerics = Numerics(torch.device("cpu"), precision, **options)
    return ImageTask(DatasetSpec("digits"), Recipe(epochs=1, batch_size=256), numerics, None)


class Adding(nn.Module):
    """Does something to the inputs before it rounds them, and leaves them changed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Any:
        return self.inner(inputs.mul_(1.37).add_(0.011))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_1"])
def test_a_test_set_that_is_normalised_once_gives_the_same_bits(
    precision: str, name: str, request: pytest.FixtureRequest
) -> None:
    plain = task(precision)
    network = plain.network(name)
    models = [network, Adding(copy.deepcopy(network)), nn.Sequential(copy.deepcopy(network))]
    expected = [plain.evaluate(model) for model in models]
    request.getfixturevalue("accelerator")
    kept = task(precision)
    for _ in range(2):
        found = [kept.evaluate(model) for model in models]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    half = [torch.float32 if precision == "fp32" else torch.bfloat16, torch.float32]
    assert [kept._dtype_for(model) for model in models[:2]] == half


def test_the_test_set_is_normalised_once(accelerator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, finished = task(), []
    network, real = kept.network("cifar_resnet8"), loader.Loader._finish

    def finish(self: Any, *given: Any) -> Tensor:
        finished.append(1)
        return real(self, *given)

    monkeypatch.setattr(loader.Loader, "_finish", finish)
    for _ in range(3):
        kept.evaluate(network)
    assert len(finished) == len(list(kept.test_batches())) == 1


def test_a_large_test_set_does_not_stay(accelerator: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "TESTED_AT_MOST", 100)
    large = DeviceLoader(images(), 16)
    assert len(list(large.test_batches())) == 1
    assert large._normalised.cache_info().currsize == 0


def test_compiled_networks_are_given_what_they_always_were(accelerator: None) -> None:
    compiled = task("bf16", compile=True)
    assert compiled._dtype_for(compiled.network("cifar_resnet8")) is torch.float32


def test_evaluating_reads_nothing_from_the_host(accelerator: None) -> None:
    kept = task()
    network = kept.network("cifar_resnet8")
    kept.evaluate(network)
    with Waits() as waits:
        kept.evaluate(network)
    assert not waits.found


def test_growth_is_of_the_hungriest_step() -> None:
    assert Augment(["flip", "cutout"]).growth((32, 32)) == 1
    assert Augment(["pad_crop:8", "flip"]).growth((16, 16)) == 4
    assert Augment(["pad_crop:32", "rand_augment"]).growth((16, 16)) == 25

"""What a batch costs before anybody trains on it, and how long an epoch's end holds training up.

The field's pipeline opens, crops, flips and normalises one PIL image at a time. It runs in this process too, so that
the work is compared and not the number of processes; the row with workers says what is left of it where they share it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader
from torchvision import transforms

from benchmarks import reference
from benchmarks.paced import CIFAR, Workshop, synchronize
from benchmarks.setting import Setting
from kdbench import Batch
from kdbench.hardware.numerics import Numerics
from kdbench.tasks.image.data import StreamLoader, load
from kdbench.tasks.image.data.workers import Epochs, Samples

PASSES = 4  # over the training images in a round
VIEWS = {"as it is": False, "and its strong view": True}
WAYS = ("pil", "pil in workers", "kdbench")


class BothViews:
    """The literature's augmentation, and the same with RandAugment after the flip."""

    def __init__(self, weak: transforms.Compose) -> None:
        crop, flip, *rest = weak.transforms
        operations = transforms.RandAugment(2, 10, interpolation=transforms.InterpolationMode.BILINEAR)
        self.weak, self.strong = weak, transforms.Compose([crop, flip, operations, *rest])

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        return self.weak(image), self.strong(image)


@pytest.mark.benchmark(group="images augmented")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("view", VIEWS)
def test_images_augmented(
    benchmark: BenchmarkFixture,
    setting: Setting,
    workshop: Workshop,
    data: Path,
    automatic: Numerics,
    view: str,
    way: str,
) -> None:
    """Each image as it is trained on, once: in batches, cropped, flipped and normalised."""
    strong = VIEWS[view]
    if way == "kdbench":
        epoch = workshop.task("cifar100", CIFAR, automatic).training_set(seed=0, strong_view=strong).epoch
        work = lambda: [exhaust(epoch(number)) for number in range(PASSES)]  # noqa: E731
    else:
        workers = setting.workers if way == "pil in workers" else 0
        images = pil_images(data, setting.batch_size, workers, strong)
        work = lambda: exhaust(iter(images))  # noqa: E731

    def round_() -> None:
        work()
        synchronize(automatic.device)

    benchmark.extra_info |= {"view": view, "way": way, "images": PASSES * setting.train_samples}
    benchmark.pedantic(round_, rounds=2 * setting.rounds, warmup_rounds=1)


def pil_images(root: Path, batch_size: int, workers: int, strong: bool) -> DataLoader:
    """The reference's loader, of so many passes in one that starting its workers does not count."""
    images = reference.loader(root, batch_size, workers).dataset
    if strong:
        images.transform = BothViews(images.transform)  # type: ignore[attr-defined]
    return DataLoader(ConcatDataset(PASSES * [images]), batch_size, shuffle=True, num_workers=workers)


def exhaust(batches: Iterator[object]) -> None:
    for _ in batches:
        pass


# ----------------------------------------------------------------------------------------------------------- epoch ends


class FreshWorkers(StreamLoader):
    """Ends its workers with each epoch, as torch's DataLoader does by default and the field's loops do."""

    def _views(self, epoch: int) -> Iterator[tuple[Sequence[Tensor], Tensor, Tensor]]:
        cuda = self.device.type == "cuda"
        batches = list(itertools.islice(Epochs(self.order, views=1).row(epoch), self.steps_per_epoch))
        samples = Samples(self.data.train, self.crop)
        for tensors in DataLoader(samples, batch_sampler=batches, num_workers=self.workers, pin_memory=cuda):
            indices, images = (tensor.to(self.device, non_blocking=cuda) for tensor in tensors)
            yield (indices,), images, images


class Walk:
    """Goes through one epoch after the other, so many batches at a time."""

    def __init__(self, epoch: Callable[[int], Iterator[Batch]], count: int) -> None:
        self.epoch, self.count, self.numbers = epoch, count, itertools.count()
        self.begin()

    def begin(self) -> None:
        self.batches = self.epoch(next(self.numbers))
        self.go_on()

    def go_on(self) -> None:
        exhaust(itertools.islice(self.batches, self.count))

    def finish(self) -> None:
        exhaust(self.batches)

    def finish_and_begin(self) -> None:
        self.finish()
        self.begin()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Path:
    """A small image folder: what is timed is the wait, not the decoding."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 4 * setting.workers * setting.batch_size), ("val", 2)):
        for number in range(count):
            path = root / split / f"class {number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return root


@pytest.mark.benchmark(group="the wait for a batch")
@pytest.mark.parametrize("when", ["within an epoch", "at its end", "at its end, with new workers"])
def test_the_wait_for_a_batch(
    benchmark: BenchmarkFixture, setting: Setting, folder: Path, automatic: Numerics, when: str
) -> None:
    """One from each worker. Nothing is done in between: training and evaluation would only hide the wait."""
    kind = FreshWorkers if when.endswith("new workers") else StreamLoader
    stream = kind(
        load(f"folder:{folder}", image_size=32), setting.batch_size, workers=setting.workers, device=automatic.device
    )
    walk = Walk(stream.epoch, setting.workers)
    work, setup = (walk.go_on, walk.finish_and_begin) if when == "within an epoch" else (walk.begin, walk.finish)
    benchmark.extra_info |= {"when": when, "batches": setting.workers}
    benchmark.pedantic(work, setup=setup, rounds=8 * setting.rounds)

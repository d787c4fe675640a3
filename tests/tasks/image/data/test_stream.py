"""A streamed set gives the same batches whatever the number of workers."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.errors import KDBenchError
from kdbench.method import Batch
from kdbench.tasks.image.data import DeviceLoader, StreamedData, StreamLoader, load, make_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(pixels.integers(0, 256, (40, 48, 3), np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(folder) -> StreamedData:
    return load(f"folder:{folder}", image_size=24)


def epoch(data: StreamedData, number: int = 1, **options) -> list[Batch]:
    options = {"workers": 0, "seed": 5, **options}
    return list(StreamLoader(data, 4, **options).epoch(number))


def inputs(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.inputs for batch in batches])


def test_the_number_of_workers_does_not_matter(data):
    alone, with_two = epoch(data, strong=True), epoch(data, strong=True, workers=2)
    assert torch.equal(inputs(alone), inputs(with_two))
    assert torch.equal(torch.cat([b.strong for b in alone]), torch.cat([b.strong for b in with_two]))
    assert torch.equal(torch.cat([b.indices for b in alone]), torch.cat([b.indices for b in with_two]))


def test_epochs_are_reproducible_and_differ(data):
    assert torch.equal(inputs(epoch(data)), inputs(epoch(data)))
    assert not torch.equal(inputs(epoch(data)), inputs(epoch(data, 2)))
    assert not torch.equal(inputs(epoch(data)), inputs(epoch(data, seed=6)))


def test_a_strong_view_leaves_the_first_view_as_it_is(data):
    plain, strong = epoch(data), epoch(data, strong=True)
    assert torch.equal(inputs(plain), inputs(strong))
    assert strong[0].strong.shape == strong[0].inputs.shape
    assert plain[0].strong is None


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_random_numbers_are_neither_used_nor_disturbed(data, workers):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = inputs(epoch(data, workers=workers, strong=True))
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())
    random.random(), np.random.rand(), torch.rand(1)
    assert torch.equal(inputs(epoch(data, workers=workers, strong=True)), first)


def test_an_epoch_shows_every_sample_once_with_its_label(data):
    batches = epoch(data)
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(14))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), data.train_targets[indices])


def test_labels_come_from_the_table_so_that_noise_reaches_them(data):
    noisy = replace(data, train_targets=1 - data.train_targets)
    batch = epoch(noisy)[0]
    assert torch.equal(batch.targets, 1 - data.train_targets[batch.indices])


def test_without_a_random_crop_it_gives_what_a_set_in_memory_gives(data):
    stream = StreamLoader(data, 4, augment=("pad_crop:2", "flip"), seed=5, workers=0)
    memory = DeviceLoader(data.in_memory(), 4, augment=("pad_crop:2", "flip"), seed=5)
    assert torch.equal(inputs(list(stream.epoch(1))), inputs(list(memory.epoch(1))))
    assert torch.equal(inputs(list(stream.batches())), inputs(list(memory.batches())))
    ours, theirs = (torch.cat([x for x, _ in loader.test_batches()]) for loader in (stream, memory))
    assert torch.equal(ours, theirs)


def test_unaugmented_batches_are_in_order(data):
    batches = list(StreamLoader(data, 4, workers=0).batches())
    assert torch.equal(torch.cat([batch.indices for batch in batches]), torch.arange(14))
    assert [len(batch) for batch in batches] == [4, 4, 4, 2]


def test_test_batches_have_twice_the_size_and_the_targets_in_order(data):
    batches = list(StreamLoader(data, 2, workers=0).test_batches())
    assert [len(inputs) for inputs, _ in batches] == [4, 2]
    assert torch.cat([targets for _, targets in batches]).tolist() == [0, 0, 0, 1, 1, 1]


def test_each_image_is_cropped_on_its_own(data):
    one = data.select(torch.zeros(8, dtype=torch.int64))
    assert len(inputs(epoch(one, augment=("random_resized_crop",))).unique(dim=0)) == 8


def test_a_damaged_image_is_named_even_from_a_worker(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "dog" / "3.png").write_bytes(b"no image")
    damaged = load(f"folder:{tmp_path / 'copy'}", image_size=24)
    for workers in (0, 1):
        with pytest.raises(KDBenchError, match=r"^image '.*dog/3\.png' cannot be read"):
            epoch(damaged, workers=workers)


def test_a_random_crop_must_come_first(data):
    with pytest.raises(KDBenchError, match=r"'random_resized_crop:0\.3' must come first"):
        StreamLoader(data, 4, augment=("flip", "random_resized_crop:0.3"))


def test_make_loader_takes_the_loader_that_fits(data):
    assert isinstance(make_loader(data, 4, workers=0), StreamLoader)
    assert isinstance(make_loader(data.in_memory(), 4, workers=0), DeviceLoader)


def test_large_images_are_cut_from_the_middle_for_evaluation(folder):
    large = load(f"folder:{folder}", image_size=72)
    shown, _ = next(iter(StreamLoader(large, 4, workers=0).test_batches()))
    image = np.asarray(large.test[0].resize((round(48 * 82 / 40), 82), Image.Resampling.BILINEAR))  # 72 / 0.875 = 82
    top, left = (82 - 72) // 2, (image.shape[1] - 72) // 2
    middle = torch.from_numpy(image[top : top + 72, left : left + 72].copy()).permute(2, 0, 1) / 255
    ours = shown[0] * torch.tensor(large.std)[:, None, None] + torch.tensor(large.mean)[:, None, None]
    assert (ours - middle).abs().mean() < 0.01

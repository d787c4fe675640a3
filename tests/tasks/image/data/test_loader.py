"""A loader's epoch is decided by (seed, epoch) alone."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.method import Batch
from kdbench.seeding import derive_seed, generator, seed_all, seeded
from kdbench.tasks.image.data import DeviceLoader, ImageData, load, make_loader

AUGMENT = ("pad_crop:1", "flip", "cutout:2")


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits")


def small(digits: ImageData, count: int) -> ImageData:
    return digits.select(torch.arange(count))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_an_epoch_shows_every_sample_once_with_its_label(digits):
    batches = list(DeviceLoader(digits, 64).epoch(1))
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(1437))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), digits.train_targets[indices])


# Of the images and their strides, which decide how a convolution rounds; published results rest on them.
FROZEN = {
    (1, ()): "db6eee416e56d5b0",
    (3, ()): "f5d44400b2cf4f10",
    (1, ("flip",)): "b0cb77c746789ed4",
    (3, ("flip",)): "fd455f06ab8f47f1",
    (1, ("pad_crop:4", "flip")): "faa862233c820856",
    (3, ("pad_crop:4", "flip")): "16e1990f7b29c5bc",
    (1, ("flip", "pad_crop:2")): "f897d5ba7f115e4d",
    (3, ("flip", "pad_crop:2")): "c5a07066f352661f",
    (1, ("pad_crop:2", "flip:0.02", "cutout:4")): "c8e12f2a37305062",
    (3, ("pad_crop:2", "flip:0.02", "cutout:4")): "8be00a231084d0b0",
}


@pytest.mark.parametrize(("channels", "augment"), FROZEN)
def test_the_bits_of_an_epoch_are_frozen(channels: int, augment: tuple[str, ...]) -> None:
    images = torch.randint(0, 256, (150, channels, 12, 12), dtype=torch.uint8, generator=generator("frozen"))
    targets = torch.arange(150) % 2
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.1)[:channels]
    data = ImageData("toy", images, targets, images[:20], targets[:20], 2, ("a", "b"), mean, std)
    loader = DeviceLoader(data, 64, augment=augment, seed=3, channels_last=True)
    shown = [batch.inputs for epoch in (0, 7) for batch in loader.epoch(epoch)]
    shown += [inputs for inputs, _ in loader.test_batches()] + [batch.inputs for batch in loader.batches()]
    digest = hashlib.sha256()
    for inputs in shown:
        digest.update(repr(inputs.stride()).encode() + inputs.contiguous().numpy().tobytes())
    assert digest.hexdigest()[:16] == FROZEN[channels, augment]


def test_inputs_are_normalised_images_of_their_indices(digits):
    batch = next(iter(DeviceLoader(digits, 64).epoch(1)))
    expected = (digits.train_images[batch.indices].double() / 255 - digits.mean[0]) / digits.std[0]
    assert torch.allclose(batch.inputs.double(), expected, atol=1e-5)


def test_an_epoch_is_the_same_whatever_ran_before(digits):
    loader = DeviceLoader(digits, 64, augment=AUGMENT, seed=3)
    first = list(loader.epoch(2))
    list(loader.epoch(1)), list(loader.batches())
    assert same(first, list(loader.epoch(2)))
    assert same(first, list(DeviceLoader(digits, 64, augment=AUGMENT, seed=3).epoch(2)))


@pytest.mark.parametrize(("seed", "epoch"), [(3, 3), (4, 2)])
def test_other_epochs_and_seeds_differ(digits, seed, epoch):
    first = list(DeviceLoader(digits, 64, augment=AUGMENT, seed=3).epoch(2))
    assert not same(first, list(DeviceLoader(digits, 64, augment=AUGMENT, seed=seed).epoch(epoch)))


def test_a_strong_view_leaves_the_first_view_as_it_is(digits):
    plain = list(DeviceLoader(digits, 64, augment=AUGMENT).epoch(1))
    strong = list(DeviceLoader(digits, 64, augment=AUGMENT, strong=True).epoch(1))
    assert same(plain, strong)
    assert all(batch.strong is None for batch in plain)
    assert not any(torch.equal(batch.strong, batch.inputs) for batch in strong)


def test_the_global_random_numbers_are_neither_used_nor_disturbed(digits):
    loader = DeviceLoader(digits, 256, augment=AUGMENT, strong=True)
    state = torch.get_rng_state()
    first = list(loader.epoch(1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert same(first, list(loader.epoch(1)))


def test_batches_are_unaugmented_and_in_order(digits):
    loader = DeviceLoader(digits, 100, augment=AUGMENT)
    batches = list(loader.batches())
    assert torch.equal(torch.cat([batch.indices for batch in batches]), torch.arange(1437))
    plain = torch.cat([batch.inputs for batch in DeviceLoader(digits, 1437).batches()])
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), plain)


def test_test_batches_are_in_order_and_larger(digits):
    batches = list(DeviceLoader(digits, 32, test_batch_size=200).test_batches())
    assert [len(inputs) for inputs, _ in batches] == [200, 160]
    assert torch.equal(torch.cat([targets for _, targets in batches]), digits.test_targets)


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(20, False, [8, 8, 4]), (20, True, [8, 8]), (17, False, [8, 8]), (16, False, [8, 8]), (5, False, [5])],
)
def test_only_a_last_batch_of_one_sample_is_dropped_by_default(digits, count, drop_last, sizes):
    loader = DeviceLoader(small(digits, count), 8, drop_last=drop_last)
    assert [len(batch) for batch in loader.epoch(0)] == sizes
    assert (loader.steps_per_epoch, len(loader)) == (len(sizes), count)


def test_a_batch_size_of_one_keeps_all_samples(digits):
    assert DeviceLoader(small(digits, 5), 1).steps_per_epoch == 5


@pytest.mark.parametrize(("count", "batch", "message"), [(5, 8, "too few for one batch of 8"), (5, 0, "at least 1")])
def test_a_batch_size_that_cannot_work_is_refused(digits, count, batch, message):
    with pytest.raises(KDBenchError, match=message):
        DeviceLoader(small(digits, count), batch, drop_last=True)


def test_noisy_targets_are_given_and_clean_ones_kept(digits):
    loader = DeviceLoader(replace(digits, train_targets=(digits.train_targets + 1) % 10), 64)
    batch = next(iter(loader.epoch(0)))
    assert torch.equal(batch.targets, (digits.train_targets[batch.indices] + 1) % 10)
    assert torch.equal(loader.clean_targets, digits.train_targets)


def test_images_are_resized_on_the_device_where_they_are_stored_smaller(digits):
    loader = DeviceLoader(replace(digits, image_size=96), 4)
    assert next(iter(loader.epoch(0))).inputs.shape == (4, *loader.input_size) == (4, 1, 96, 96)


def test_memory_format_and_dtype_are_as_asked():
    images = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8, generator=generator("x"))
    targets = torch.arange(8) % 2
    data = ImageData("toy", images, targets, images, targets, 2, ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    batch = next(iter(make_loader(data, 8, channels_last=True, dtype=torch.bfloat16, strong=True).epoch(0)))
    for inputs in (batch.inputs, batch.strong):
        assert inputs.dtype == torch.bfloat16
        assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_a_derived_seed_is_the_same_in_every_process():
    assert derive_seed(0, "order", 1) == 1516857728296008977
    assert derive_seed(1, "2") != derive_seed("1", 2) != derive_seed(12)
    assert 0 <= derive_seed("anything") < 2**63


def test_a_seeded_block_restores_the_callers_random_numbers():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with seeded(1, "a"):
        first = random.random(), np.random.rand(), torch.rand(1).item()
    with seeded(1, "a"):
        assert first == (random.random(), np.random.rand(), torch.rand(1).item())
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())


def test_loaders_of_one_set_share_its_images(digits):
    first, second = DeviceLoader(digits, 64), DeviceLoader(digits, 32, strong=True)
    assert first.train_images is second.train_images


def test_seed_all_seeds_every_global_stream():
    def numbers() -> tuple[float, float, float]:
        seed_all("network", 0)
        return random.random(), np.random.rand(), torch.rand(1).item()

    with seeded(0):  # so that this test leaves the global streams as they were
        assert numbers() == numbers()


def test_a_batchs_follow_moves_other_maps_as_its_images_were_moved() -> None:
    loader = DeviceLoader(load("digits"), 32, augment=("pad_crop:1", "flip"), seed=3)
    batch = next(loader.epoch(1))
    images = loader.train_images[batch.indices].float()
    assert batch.follow is not None
    torch.testing.assert_close((batch.follow(images) - loader._mean) / loader._std, batch.inputs)


def test_follow_uses_up_the_random_numbers_of_augmentations_that_change_colours() -> None:
    loader = DeviceLoader(load("digits"), 32, augment=("rand_augment:1:5", "cutout:2", "flip"), seed=3)
    batch = next(loader.epoch(1))
    position = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(32, 1, 1, 1)
    assert batch.follow is not None
    moved = batch.follow(position)
    flipped = moved.eq(position.flip(-1)).flatten(1).all(1)
    assert 0 < flipped.sum() < 32
    assert moved[~flipped].equal(position[~flipped])

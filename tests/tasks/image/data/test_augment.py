"""Batched augmentation does to each image what a plain loop would do to it alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from kdbench.errors import KDBenchError
from kdbench.seeding import generator
from kdbench.tasks.image.data.augment import (
    RAND_AUGMENT,
    UNSIGNED,
    Augment,
    draw_rand_augment,
    parse,
    rand_augment,
    strong_spec,
)


def images(batch: int = 16, channels: int = 3, size: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (batch, channels, size, size), dtype=torch.uint8, generator=generator("images"))


def draws() -> torch.Generator:
    return generator("draws")


def test_pad_crop_is_a_window_of_the_padded_image():
    x, g = images(), draws()
    top, left = torch.randint(0, 9, (2, len(x)), generator=g)
    expected = [F.pad(x[i], (4,) * 4)[:, top[i] : top[i] + 12, left[i] : left[i] + 12] for i in range(len(x))]
    assert torch.equal(Augment(["pad_crop:4"])(x, draws()), torch.stack(expected))


def test_flip_mirrors_the_chosen_images():
    x = images()
    chosen = torch.rand(len(x), generator=draws()) < 0.5
    expected = torch.stack([image.flip(-1) if flipped else image for image, flipped in zip(x, chosen, strict=True)])
    assert torch.equal(Augment(["flip"])(x, draws()), expected)


def test_a_flip_is_drawn_per_image():
    x = images(batch=1).repeat(400, 1, 1, 1)
    flipped = (Augment(["flip"])(x, draws()) != x).flatten(1).any(1)
    assert 150 < flipped.sum() < 250  # 5 standard deviations


def test_a_crop_reaches_every_offset():
    x = images(batch=1).repeat(3000, 1, 1, 1)
    assert len(Augment(["pad_crop:2"])(x, draws()).unique(dim=0)) == 25


def test_cutout_paints_one_square_in_the_mean_colour():
    x, size = images(batch=64), 4
    y = Augment([f"cutout:{size}"], mean=(0.2, 0.4, 0.6))(x, draws())
    g = draws()
    centre_y, centre_x = (torch.randint(0, 12, (64, 1, 1), generator=g).flatten().tolist() for _ in range(2))
    for i in range(64):
        expected = x[i].clone()
        rows = slice(max(centre_y[i] - 2, 0), centre_y[i] + 2)
        expected[:, rows, max(centre_x[i] - 2, 0) : centre_x[i] + 2] = torch.tensor([51, 102, 153])[:, None, None]
        assert torch.equal(y[i], expected)


def test_resized_crop_of_everything_is_the_image():
    x = images()
    wide = torch.zeros_like(x).fill_(7)
    assert torch.equal(Augment(["random_resized_crop"])(wide, draws()), wide)
    assert Augment(["random_resized_crop:0.3"])(x, draws()).shape == x.shape


def test_resized_crop_stays_inside_the_image():
    ramp = torch.arange(0, 240, 20, dtype=torch.uint8).expand(256, 1, 12, 12)
    y = Augment(["random_resized_crop"])(ramp, draws())
    assert y.max() == 220
    assert (y.diff(dim=-1).int().abs() <= 20 + 1).all()  # an enlarged part rises at most as steeply, but for rounding
    assert len(y.unique(dim=0)) > 200  # boxes as wide as the image and in the same place look alike on a ramp


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RAND_AUGMENT)
def test_each_randaugment_operation_is_torchvisions(name, channels):
    x = images(channels=channels, batch=3)
    theirs = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=[9.0] * channels)
    kind = {"colour": "Color", "autocontrast": "AutoContrast"}.get(name, name.title().replace("_", ""))
    magnitudes, signed = theirs._AUGMENTATION_SPACE[kind]
    values = magnitudes(31, 12, 12)
    for sign in (1, -1) if signed else (1,):
        magnitude = 0.0 if values is None else sign * float(values[10])
        expected = theirs._apply_image_or_video_transform(x, kind, magnitude, theirs.interpolation, theirs._fill)
        assert (RAND_AUGMENT[name](x, sign * 10 / 30, [9.0] * channels).int() - expected.int()).abs().max() <= 1


def test_the_operations_are_those_of_torchvision():
    space = v2.RandAugment._AUGMENTATION_SPACE
    assert len(RAND_AUGMENT) == len(space)
    assert len(UNSIGNED) == sum(not signed for _, signed in space.values())


def test_randaugment_treats_images_in_groups_as_it_would_one_by_one():
    x, g = images(batch=40), draws()
    names, expected = tuple(RAND_AUGMENT), x.clone()
    for _ in range(2):
        kinds = torch.randint(0, 14, (40,), generator=g)
        signs = torch.randint(0, 2, (40,), generator=g) * 2 - 1
        for i in range(40):
            name = names[kinds[i]]
            strength = 10 / 30 * (1 if name in UNSIGNED else int(signs[i]))
            expected[i] = RAND_AUGMENT[name](expected[i : i + 1], strength, [5.0] * 3)[0]
    assert torch.equal(rand_augment(x, draw_rand_augment(40, (12, 12), draws()), [5.0] * 3), expected)


@pytest.mark.parametrize("spec", [("pad_crop:2", "flip", "rand_augment", "cutout:4"), ("random_resized_crop",), ()])
def test_several_batches_at_a_time_become_what_each_would_after_the_other(spec: tuple[str, ...]) -> None:
    chain, batches = Augment(spec, mean=(0.5,) * 3), images(batch=20).split(8)
    together, drawn = chain.several(torch.cat(batches), [8, 8, 4], draws())
    state = draws()
    assert all(torch.equal(ours, chain(batch, state)) for ours, batch in zip(together, batches, strict=True))
    assert all(torch.equal(ours, chain.apply(*pair)) for ours, *pair in zip(together, batches, drawn, strict=True))


def test_randaugment_differs_between_copies_of_one_image():
    x = images(batch=1, size=32).repeat(100, 1, 1, 1)
    assert len(Augment(["rand_augment:2:10"], mean=(0.5,) * 3)(x, draws()).unique(dim=0)) > 50


@pytest.mark.parametrize("channels", [1, 3])
def test_a_chain_keeps_shape_and_type(channels):
    x = images(channels=channels)
    chain = ["random_resized_crop", "pad_crop", "flip", "rand_augment", "cutout:4"]
    y = Augment(chain, mean=(0.5,) * channels)(x, draws())
    assert (y.shape, y.dtype) == (x.shape, torch.uint8)


def test_augmentation_leaves_its_input_and_the_global_random_numbers_alone():
    x = images()
    kept, state = x.clone(), torch.get_rng_state()
    Augment(["pad_crop", "flip", "rand_augment", "cutout"], mean=(0.5,) * 3)(x, draws())
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_random_numbers_are_the_same_on_cuda():
    x = images()
    chain = Augment(["pad_crop", "flip", "cutout:4"], mean=(0.5,) * 3)
    assert torch.equal(chain(x.cuda(), draws()).cpu(), chain(x, draws()))


def test_the_strong_view_adds_randaugment_before_cutout():
    assert strong_spec(["pad_crop:4", "cutout:8", "flip"]) == ("pad_crop:4", "flip", "rand_augment:2:10", "cutout:8")


def test_arguments_are_parsed_by_position():
    assert parse("rand_augment:3:5") == ("rand_augment", {"num_ops": 3, "magnitude": 5})
    assert parse("flip") == ("flip", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pad_krop:4", "unknown augmentation 'pad_krop': did you mean 'pad_crop'"),
        ("flip:0.5:1", "has 2 arguments, but flip takes at most 1"),
        ("pad_crop:2.5", "its padding in px is '2.5', but must be a whole number from 0"),
        ("flip:1.5", "its probability is '1.5', but must be a number from 0 to 1"),
        ("rand_augment:2:31", "its magnitude is '31', but must be a whole number from 0 to 30"),
    ],
)
def test_a_wrong_augmentation_is_refused_in_one_sentence(text, message):
    with pytest.raises(KDBenchError, match=message):
        Augment([text])

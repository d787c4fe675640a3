"""Augmentation of many images at a time on the device, each with its own random numbers.

Each step first draws its numbers, `[..., B]`, from a CPU generator that is passed in, so a batch is augmented alike on
every device; then it does what was drawn. In between, the numbers of several batches can be joined, and the batches be
augmented as one. Images are uint8 `[B, C, H, W]` throughout; normalisation comes after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as ops

from kdbench.errors import KDBenchError, unknown

MAGNITUDE_BINS = 31  # RandAugment's magnitudes run from 0 to 30, as in torchvision
STRONG = "rand_augment:2:10"
Fill = Sequence[float]
Size = Sequence[int]  # H, W


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers of the CPU on a device. From pinned memory, so that the CPU does not wait until a GPU has caught up."""
    if numbers.device == device:
        return numbers
    if device.type != "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


def works_behind(device: torch.device) -> bool:
    """Whether a device works behind its host, which waits for it whenever it reads something there."""
    return device.type == "cuda"


def take(images: Tensor, index: Tensor) -> Tensor:
    """`images[index]` in the memory format of `images`: whole images are copied, not one number after the other."""
    if images.stride(1) == 1:  # channels-last
        return images.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return images.index_select(0, index)


def draw_pad_crop(batch: int, size: Size, draws: torch.Generator, padding: int = 4) -> Tensor:
    return torch.randint(0, 2 * padding + 1, (2, batch), generator=draws)  # top, left


def pad_crop(images: Tensor, drawn: Tensor, fill: Fill, padding: int = 4) -> Tensor:
    """Pad with black by `padding` px on each side and cut a random window of the old size.

    Works on channels-last images, and gives such: there a row of a window is one piece of memory and copied as a whole,
    which is several times faster than pixel by pixel.
    """
    batch, channels, height, width = images.shape
    top, left = sent(drawn, images.device)
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4)).contiguous()  # [B, H + 2p, W + 2p, C]
    samples, rows = (torch.arange(count, device=images.device) for count in (batch, height))
    starts = ((samples * padded.shape[1] + top)[:, None] + rows) * padded.shape[2] + left[:, None]  # [B, H], in pixels
    any_row = padded.flatten().unfold(0, width * channels, channels)  # a view: the W pixels from each pixel on
    windows = any_row.index_select(0, starts.flatten())
    return windows.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def draw_flip(batch: int, size: Size, draws: torch.Generator, probability: float = 0.5) -> Tensor:
    return torch.rand(batch, generator=draws)


def flip(images: Tensor, drawn: Tensor, fill: Fill, probability: float = 0.5) -> Tensor:
    """Mirror left to right with the given probability.

    On a CPU only the chosen ones are moved; which they are a GPU would have to tell its host, so that it mirrors all.
    """
    if works_behind(images.device):
        chosen = sent(drawn, images.device) < probability
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)
    chosen = (drawn < probability).nonzero().flatten()
    if not len(chosen):
        return images
    mirrored = take(images, sent(chosen, images.device)).flip(-1)
    places = torch.arange(len(images))
    places[chosen] = torch.arange(len(images), len(images) + len(chosen))
    return take(torch.cat([images, mirrored]), sent(places, images.device))


def draw_cutout(batch: int, size: Size, draws: torch.Generator, side: int = 8) -> Tensor:
    return torch.stack([torch.randint(0, length, (batch,), generator=draws) for length in size])  # centre's y, x


def cutout(images: Tensor, drawn: Tensor, fill: Fill, side: int = 8) -> Tensor:
    """Paint a `side` x `side` square in the mean colour; its centre is any pixel, so the rim may cut it off."""
    height, width = images.shape[-2:]
    centre_y, centre_x = sent(drawn, images.device)[:, :, None, None]
    y = torch.arange(height, device=images.device)[None, :, None] - centre_y + side // 2
    x = torch.arange(width, device=images.device)[None, None, :] - centre_x + side // 2
    inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)  # [B, H, W]
    colour = sent(torch.tensor(fill), images.device).round().to(images.dtype)
    return torch.where(inside[:, None], colour[None, :, None, None], images)


def draw_random_resized_crop(batch: int, size: Size, draws: torch.Generator, min_area: float = 0.08) -> Tensor:
    area, shape, top, left = torch.rand(4, batch, generator=draws)
    area = min_area + (1 - min_area) * area
    ratio = torch.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * shape)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    return torch.stack([width, height, left, top])  # in shares of the image's sides and of what they leave free


def random_resized_crop(images: Tensor, drawn: Tensor, fill: Fill, min_area: float = 0.08) -> Tensor:
    """Cut a box of `min_area` to 1 of the area and 3:4 to 4:3 in shape, and stretch it over the image.

    A box that would stick out is cut to the image's side, where torchvision draws again.
    """
    width, height, left, top = sent(drawn, images.device)
    transform = torch.zeros(len(images), 2, 3, device=images.device)  # output -> input, both in [-1, 1]
    transform[:, 0, 0], transform[:, 1, 1] = width, height
    transform[:, 0, 2], transform[:, 1, 2] = (1 - width) * (2 * left - 1), (1 - height) * (2 * top - 1)
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    crops = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return crops if images.is_floating_point() else crops.round().to(images.dtype)


def draw_rand_augment(batch: int, size: Size, draws: torch.Generator, num_ops: int = 2, magnitude: int = 10) -> Tensor:
    drawn = torch.empty(num_ops, 2, batch, dtype=torch.int64)  # which operation, whether its magnitude is positive
    for one in drawn:
        one[0] = torch.randint(0, len(RAND_AUGMENT), (batch,), generator=draws)
        one[1] = torch.randint(0, 2, (batch,), generator=draws)
    return drawn


def rand_augment(images: Tensor, drawn: Tensor, fill: Fill, num_ops: int = 2, magnitude: int = 10) -> Tensor:
    """RandAugment (Cubuk et al., 2020) with torchvision's 14 operations, `num_ops` random ones for each image.

    Images with the same operation and direction are treated together. Uncovered pixels take the mean colour.
    """
    strength = magnitude / (MAGNITUDE_BINS - 1)
    groups = [(name, sign * strength) for name in RAND_AUGMENT for sign in (1, -1)]  # in [-1, 1]
    unsigned = torch.tensor([name in UNSIGNED for name in RAND_AUGMENT])
    for kinds, positive in drawn:
        group = 2 * kinds + ~(positive.bool() | unsigned[kinds])  # [B], which of `groups`; the unsigned are in one
        order = group.argsort()
        sizes = group.bincount(minlength=len(groups)).tolist()
        sorted_images = take(images, sent(order, images.device))
        result = torch.empty_like(images)
        parts = zip(groups, sorted_images.split(sizes), result.split(sizes), strict=True)
        for (name, signed_strength), before, after in parts:
            if len(before):
                after.copy_(RAND_AUGMENT[name](before, signed_strength, list(fill)))
        images = take(result, sent(order.argsort(), images.device))
    return images


def _affine(
    images: Tensor, fill: list[float], angle: float = 0.0, move: tuple[int, int] = (0, 0), shear: tuple = (0.0, 0.0)
) -> Tensor:
    centre = [0.0, 0.0] if any(shear) else None  # RandAugment shears about the top left corner
    return ops.affine(
        images, angle, list(move), 1.0, list(shear), ops.InterpolationMode.BILINEAR, fill=fill, center=centre
    )


def _shear(strength: float) -> float:
    return math.degrees(math.atan(0.3 * strength))


def _move(strength: float, side: int) -> int:
    return int(150 / 331 * side * strength)


# Name -> operation on (images, strength in [-1, 1], fill), with the magnitudes of torchvision's RandAugment.
RAND_AUGMENT: dict[str, Callable[[Tensor, float, list[float]], Tensor]] = {
    "identity": lambda x, s, fill: x,
    "shear_x": lambda x, s, fill: _affine(x, fill, shear=(_shear(s), 0.0)),
    "shear_y": lambda x, s, fill: _affine(x, fill, shear=(0.0, _shear(s))),
    "translate_x": lambda x, s, fill: _affine(x, fill, move=(_move(s, x.shape[-1]), 0)),
    "translate_y": lambda x, s, fill: _affine(x, fill, move=(0, _move(s, x.shape[-2]))),
    "rotate": lambda x, s, fill: _affine(x, fill, angle=-30.0 * s),
    "brightness": lambda x, s, fill: ops.adjust_brightness(x, 1 + 0.9 * s),
    "colour": lambda x, s, fill: ops.adjust_saturation(x, 1 + 0.9 * s),
    "contrast": lambda x, s, fill: ops.adjust_contrast(x, 1 + 0.9 * s),
    "sharpness": lambda x, s, fill: ops.adjust_sharpness(x, 1 + 0.9 * s),
    "posterize": lambda x, s, fill: ops.posterize(x, 8 - round(4 * s)),
    "solarize": lambda x, s, fill: ops.solarize(x, 255 * (1 - s)),
    "autocontrast": lambda x, s, fill: ops.autocontrast(x),
    "equalize": lambda x, s, fill: ops.equalize(x),
}
UNSIGNED = ("identity", "posterize", "solarize", "autocontrast", "equalize")

GEOMETRIC = (pad_crop, flip, random_resized_crop)  # they move pixels and change no colour
READ_BY_THE_HOST = (rand_augment,)  # what was drawn decides there how images are grouped
IN_FP32 = 4.0

Limits = tuple[tuple[str, type, float, float], ...]

# Name -> (what draws, what it is drawn for, (meaning, type, smallest, largest) of each optional argument of both).
AUGMENTATIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Limits]] = {
    "pad_crop": (draw_pad_crop, pad_crop, (("padding in px", int, 0, 1024),)),
    "flip": (draw_flip, flip, (("probability", float, 0, 1),)),
    "cutout": (draw_cutout, cutout, (("size in px", int, 0, 1024),)),
    "random_resized_crop": (draw_random_resized_crop, random_resized_crop, (("smallest area", float, 0.001, 1),)),
    "rand_augment": (
        draw_rand_augment,
        rand_augment,
        (("number of operations", int, 0, 14), ("magnitude", int, 0, MAGNITUDE_BINS - 1)),
    ),
}


class Augment:
    """A chain of augmentations, e.g. `Augment(["pad_crop:4", "flip", "cutout:8"])`.

    Attributes:
        format: the memory format in which it takes images fastest.
    """

    def __init__(self, spec: Sequence[str] = (), mean: Sequence[float] = (0.0,)):
        """Parse the chain.

        Args:
            spec: names of `AUGMENTATIONS` with optional arguments after colons.
            mean: of each channel in units of [0, 1]; what cutout and RandAugment fill with.

        Raises:
            KDBenchError: for an unknown name, too many arguments, or an argument out of range.
        """
        self.spec = tuple(spec)
        self.fill = [255 * value for value in mean]
        parsed = [parse(step) for step in spec]
        self.draws = [partial(AUGMENTATIONS[name][0], **arguments) for name, arguments in parsed]
        self.steps = [partial(AUGMENTATIONS[name][1], **arguments) for name, arguments in parsed]
        crops_first = bool(self.steps) and self.steps[0].func is pad_crop
        # grey images are the same in both formats but for their strides, which decide how a convolution rounds
        self.format = torch.channels_last if crops_first and len(mean) > 1 else torch.contiguous_format

    def __call__(self, images: Tensor, draws: torch.Generator) -> Tensor:
        """Augment uint8 `[B, C, H, W]`; the same generator state gives the same images."""
        return self.apply(images, self.draw(len(images), images.shape[-2:], draws))

    def several(
        self, images: Tensor, sizes: Sequence[int], draws: torch.Generator
    ) -> tuple[Sequence[Tensor], list[list[Tensor]]]:
        """Augment batches at a time, to the same images as one after the other.

        Args:
            images: of all batches, one after the other.
            sizes: how many each batch has.

        Returns:
            the batches, and what was drawn for each: for `follow` on the device, whatever number of steps ask for it.
        """
        drawn = [self.draw(size, images.shape[-2:], draws) for size in sizes]
        joined = [torch.cat(numbers, dim=-1) for numbers in zip(*drawn, strict=True)]
        there = [
            numbers if step.func in READ_BY_THE_HOST else sent(numbers, images.device)
            for step, numbers in zip(self.steps, joined, strict=True)
        ]
        augmented = self.apply(images, there).split(list(sizes))
        parts = [numbers.split(list(sizes), dim=-1) for numbers in there]
        return augmented, [[part[number] for part in parts] for number in range(len(sizes))]

    def growth(self, size: Size) -> float:
        """How many times the memory of images of a size the chain works on at most: padding, and numbers in fp32."""
        padding = [step.keywords.get("padding", 4) for step in self.steps if step.func is pad_crop]
        padded = [(size[0] + 2 * px) * (size[1] + 2 * px) / (size[0] * size[1]) for px in padding]
        return max(
            [1.0, *padded, *(IN_FP32 for step in self.steps if step.func in (random_resized_crop, rand_augment))]
        )

    def draw(self, batch: int, size: Size, draws: torch.Generator) -> list[Tensor]:
        """What each step does to so many images of a size: `[..., B]`, on the CPU."""
        return [draw(batch, size, draws) for draw in self.draws]

    def apply(self, images: Tensor, drawn: Sequence[Tensor]) -> Tensor:
        """Do what was drawn for these images."""
        for step, numbers in zip(self.steps, drawn, strict=True):
            images = step(images, numbers, self.fill)
        return images

    def follow(self, maps: Tensor, drawn: Sequence[Tensor]) -> Tensor:
        """Move other maps `[B, C, H, W]`, float, as the images that this was drawn for were moved."""
        for step, numbers in zip(self.steps, drawn, strict=True):
            if step.func in GEOMETRIC:
                maps = step(maps, numbers, self.fill)
        return maps


def parse(text: str) -> tuple[str, dict[str, float]]:
    """`"pad_crop:4"` -> `("pad_crop", {"padding": 4})`.

    Raises:
        KDBenchError: as `Augment`.
    """
    name, *values = str(text).split(":")
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    _, function, limits = AUGMENTATIONS[name]
    if len(values) > len(limits):
        raise KDBenchError(f"augmentation {text!r} has {len(values)} arguments, but {name} takes at most {len(limits)}")
    arguments = function.__code__.co_varnames[3 : 3 + len(limits)]
    return name, {
        argument: _number(text, value, *limit)
        for argument, value, limit in zip(arguments, values, limits, strict=False)
    }


def strong_spec(spec: Sequence[str]) -> tuple[str, ...]:
    """The chain of the strong view: RandAugment after the others, but before any cutout."""
    cutouts = tuple(step for step in spec if step.partition(":")[0] == "cutout")
    return (*(step for step in spec if step not in cutouts), STRONG, *cutouts)


def _number(text: str, value: str, meaning: str, kind: type, smallest: float, largest: float) -> float:
    try:
        number = kind(value)
        if smallest <= number <= largest:
            return number
    except ValueError:
        pass
    whole = "a whole number" if kind is int else "a number"
    raise KDBenchError(
        f"augmentation {text!r}: its {meaning} is {value!r}, but must be {whole} from {smallest} to {largest}"
    )

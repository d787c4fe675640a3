"""A detection data set: pictures, the objects on them, and the classes' names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from kdbench.errors import KDBenchError, unknown
from kdbench.seeding import generator

READERS = 4  # threads that open pictures
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what pretrained backbones know
MULTIPLE = 32  # px; the coarsest of a backbone's cells


class Pictures(Protocol):
    """uint8 pictures by index, `[n, C, S, S]`: each in the upper left corner, black behind its end."""

    def __call__(self, indices: Sequence[int]) -> Tensor: ...


@dataclass(frozen=True)
class Stored:
    """Pictures in memory, `[N, C, S, S]`."""

    pictures: Tensor

    def __call__(self, indices: Sequence[int]) -> Tensor:
        return self.pictures[torch.as_tensor(indices)]


@dataclass(frozen=True)
class Files:
    """Pictures that are opened when they are asked for, as RGB, their longer side resized to `size`."""

    paths: tuple[Path, ...]
    size: int

    def __call__(self, indices: Sequence[int]) -> Tensor:
        with ThreadPoolExecutor(READERS) as readers:
            return torch.stack(list(readers.map(lambda index: opened(self.paths[index], self.size)[0], indices)))


def opened(path: Path, size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """One picture, `[channels, size, size]`, uint8, and its own height and width, `[2]`.

    Raises:
        KDBenchError: if it cannot be read.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError) as error:
        raise KDBenchError(f"picture {str(path)!r} cannot be read ({error}): fetch it anew") from error
    width, height = (max(1, round(side * size / max(picture.size))) for side in picture.size)
    placed = torch.zeros(channels, size, size, dtype=torch.uint8)
    placed[:, :height, :width] = pil_to_tensor(picture.resize((width, height), Image.Resampling.BILINEAR))
    return placed, torch.tensor(picture.size[::-1])


@dataclass(frozen=True)
class Split:
    """Pictures and the objects on them, in pixels of the picture as it is on disk.

    Attributes:
        pictures: as they are trained on.
        names: of the pictures, as the data set has them: numbers or file names.
        sizes: height and width of each, `[N, 2]`, int64.
        boxes: of each picture `[n, 4]`, x1 y1 x2 y2, float64, all inside of it and with an area.
        labels: of each picture `[n]`, 0..K-1.
        areas: by which an object is small or large, `[n]`, float64: the data set's own, else the box's.
        crowds: whether a box holds several that are not told apart, `[n]`: neither found nor missed.
        dropped: boxes that have no area inside their picture.
    """

    pictures: Pictures
    names: tuple[Any, ...]
    sizes: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    areas: tuple[Tensor, ...]
    crowds: tuple[Tensor, ...]
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def select(self, chosen: Sequence[int]) -> Split:
        """Only these pictures, in this order."""
        pictures = self.pictures
        if isinstance(pictures, Stored):
            pictures = Stored(pictures(chosen))
        elif isinstance(pictures, Files):
            pictures = Files(tuple(pictures.paths[index] for index in chosen), pictures.size)
        parts: dict[str, Any] = {
            key: tuple(getattr(self, key)[index] for index in chosen)
            for key in ("names", "boxes", "labels", "areas", "crowds")
        }
        return replace(self, pictures=pictures, sizes=self.sizes[torch.as_tensor(chosen)], **parts)

    def content(self) -> bytes:
        """A digest of what is learnt and scored; pictures that are files count by their names."""
        total = hashlib.sha256(repr(self.names).encode())
        for tensor in (self.sizes, *self.boxes, *self.labels, *self.areas, *self.crowds):
            total.update(np.ascontiguousarray(tensor.numpy()).data)
        if isinstance(self.pictures, Stored):
            total.update(self.pictures.pictures.contiguous().numpy().data)
        return total.digest()


@dataclass(frozen=True)
class DetectionData:
    """A data set for detection.

    Attributes:
        classes: names, in the order of labels.
        categories: the data set's own number of each class, which may have gaps.
        mean, std: of a channel of the training pictures, in 0..1.
        size: side of the pictures as they are trained on, in px.
        protocol: what was done to it.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    categories: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """16 hex digits over the objects, the names of the pictures and, in memory, their pixels."""
        return hashlib.sha256(self.train.content() + self.test.content()).hexdigest()[:16]


def hold_out(data: DetectionData, protocol: Mapping[str, Any]) -> DetectionData:
    """Evaluate on a random part of the training pictures: `validation = {fraction = 0.1}`, the one protocol here.

    Raises:
        KDBenchError: for another protocol, or a fraction that leaves one part empty.
    """
    for name in protocol:
        if name != "validation":
            raise unknown("protocol of detection", name, ["validation"])
    if "validation" not in protocol:
        return data
    options = protocol["validation"]
    if not isinstance(options, Mapping) or set(options) - {"fraction", "seed"} or "fraction" not in options:
        raise KDBenchError(f"protocol validation is {options!r}: write validation = {{fraction = 0.1}}")
    fraction, count = options["fraction"], len(data.train)
    held = round(fraction * count) if isinstance(fraction, float) and 0 < fraction < 1 else 0
    if not 0 < held < count:
        raise KDBenchError(
            f"validation.fraction is {fraction!r}, which leaves {data.name!r} with {count} training pictures no two "
            "parts: give a number between 0 and 1 that does"
        )
    order = torch.randperm(count, generator=generator("protocol", "validation", options.get("seed", 0)))
    test, train = (sorted(part.tolist()) for part in (order[:held], order[held:]))
    return replace(data, train=data.train.select(train), test=data.train.select(test), protocol=dict(protocol))

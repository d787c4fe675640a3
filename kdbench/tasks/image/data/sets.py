"""What a data set is: `ImageData` keeps its pixels in memory, `StreamedData` opens its images when they are needed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Subset

STORED_SIZE = 64  # px; images up to this side are resized when loaded, larger ones are made on the device, per batch
RESIZE_CHUNK = 4096  # images resized at a time, which bounds the float copy


class Images(Protocol):
    """A sequence of RGB images that are opened one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image: ...


@dataclass(frozen=True)
class ImageData:
    """A set of images in memory, as training sees it.

    Attributes:
        name: as the user wrote it.
        train_images, test_images: `[N, C, H, W]`, uint8.
        train_targets, test_targets: class indices, `[N]`, int64; the training ones are noisy under label noise.
        num_classes: K.
        classes: the K names.
        mean, std: of each channel, in units of [0, 1].
        image_size: side of the images a loader gives, in px; they are resized on the device where it is not H.
        clean_targets: the training targets without label noise, `[N]`, int64.
        protocol: what was done to the set (`protocols.resolve`).
        rim: black pixels that were put around each image, within H.
    """

    name: str
    train_images: Tensor
    train_targets: Tensor
    test_images: Tensor
    test_targets: Tensor
    num_classes: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int = 0
    clean_targets: Tensor = None  # type: ignore[assignment]  # filled in below
    protocol: Mapping[str, Any] = field(default_factory=dict)
    rim: int = 0
    _copies: dict[tuple[torch.device, torch.memory_format], tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.clean_targets is None:
            object.__setattr__(self, "clean_targets", self.train_targets)
        if not self.image_size:
            object.__setattr__(self, "image_size", self.train_images.shape[-1])

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the images a loader gives."""
        return self.train_images.shape[1], self.image_size, self.image_size

    def on(
        self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
    ) -> tuple[Tensor, Tensor]:
        """The training and test images on a device; all loaders of this set that want them alike share one copy."""
        key = device, memory_format
        if key not in self._copies:
            train, test = self.train_images.to(device), self.test_images.to(device)
            self._copies[key] = (
                train.contiguous(memory_format=memory_format),
                test.contiguous(memory_format=memory_format),
            )
        return self._copies[key]

    @property
    def num_bytes(self) -> int:
        """Bytes of all images in memory."""
        return self.train_images.numel() + self.test_images.numel()

    @property
    def content(self) -> str:
        """16 hex digits over every pixel and target."""
        tensors = (self.train_images, self.train_targets, self.test_images, self.test_targets)
        return _content(*tensors, names=[])

    def select(self, index: Tensor) -> ImageData:
        """Keep these training samples `[M]`, in this order."""
        return replace(
            self,
            train_images=self.train_images[index],
            train_targets=self.train_targets[index],
            clean_targets=self.clean_targets[index],
        )

    def hold_out(self, index: Tensor) -> ImageData:
        """Evaluate on these training samples `[M]` in place of the test set; they stay in the training set."""
        return replace(self, test_images=self.train_images[index], test_targets=self.clean_targets[index])


@dataclass(frozen=True)
class StreamedData:
    """A set of images on disk; attributes as in `ImageData`, with `train` and `test` in place of the pixels.

    Attributes:
        train, test: the images; item i belongs to target i.
        image_size: side of the images a loader gives, in px.
        workers: what reads the images at present (`.workers`), for loaders of this set to share.
    """

    name: str
    train: Images
    train_targets: Tensor
    test: Images
    test_targets: Tensor
    num_classes: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    clean_targets: Tensor = None  # type: ignore[assignment]  # filled in below
    protocol: Mapping[str, Any] = field(default_factory=dict)
    workers: MutableMapping[tuple, Any] = field(
        default_factory=WeakValueDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.clean_targets is None:
            object.__setattr__(self, "clean_targets", self.train_targets)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the images a loader gives."""
        return 3, self.image_size, self.image_size

    @property
    def num_bytes(self) -> int:
        """Bytes of all images as they would lie in memory at `image_size`."""
        return (len(self.train) + len(self.test)) * math.prod(self.input_size)

    @property
    def content(self) -> str:
        """16 hex digits over the targets and, where they are files, the images' names; they are not opened for it."""
        names = [getattr(images, "paths", [str(len(images))]) for images in (self.train, self.test)]
        return _content(self.train_targets, self.test_targets, names=[Path(n).name for part in names for n in part])

    def select(self, index: Tensor) -> StreamedData:
        """Keep these training samples `[M]`, in this order."""
        return replace(
            self,
            train=_subset(self.train, index),
            train_targets=self.train_targets[index],
            clean_targets=self.clean_targets[index],
        )

    def hold_out(self, index: Tensor) -> StreamedData:
        """Evaluate on these training samples `[M]` in place of the test set; they stay in the training set."""
        return replace(self, test=_subset(self.train, index), test_targets=self.clean_targets[index])

    def in_memory(self) -> ImageData:
        """Decode every image, its short side resized to `image_size` and the middle cut out."""
        return ImageData(
            name=self.name,
            train_images=_decode(self.train, self.image_size),
            train_targets=self.train_targets,
            test_images=_decode(self.test, self.image_size),
            test_targets=self.test_targets,
            num_classes=self.num_classes,
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            clean_targets=self.clean_targets,
            protocol=self.protocol,
        )


Data = ImageData | StreamedData


def centre_transform(image_size: int, crop_pct: float = 1.0) -> Any:
    """timm's evaluation transform, PIL image -> uint8 `[C, image_size, image_size]`."""
    return create_transform(image_size, is_training=False, crop_pct=crop_pct, use_prefetcher=True)


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 `[N, C, H, W]` -> uint8 `[N, C, size, size]`, bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    chunks = [
        F.interpolate(chunk.float(), size=(size, size), mode="bilinear", antialias=True).round().to(torch.uint8)
        for chunk in images.contiguous().split(RESIZE_CHUNK)
    ]
    return torch.cat(chunks)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 `[N, C, H, W]` in units of [0, 1].

    From a histogram of the 256 values, so that the result is the same to the last bit on every machine.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        means.append(round(mean.item(), 6))
        stds.append(round((share * (values - mean).square()).sum().sqrt().item(), 6))
    return tuple(means), tuple(stds)


def _content(*tensors: Tensor, names: Sequence[str]) -> str:
    total = hashlib.sha256("\n".join([*names, *(str(tuple(tensor.shape)) for tensor in tensors)]).encode())
    for tensor in tensors:
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()[:16]


def _subset(images: Images, index: Tensor) -> Images:
    return Subset(images, index.tolist())  # type: ignore[arg-type, return-value]  # needs no more than our protocol


def _decode(images: Images, size: int) -> Tensor:
    transform = centre_transform(size)
    stored = torch.empty(len(images), 3, size, size, dtype=torch.uint8)

    def store(indices: Sequence[int]) -> None:
        for i in indices:
            stored[i] = torch.as_tensor(transform(images[i]))  # an array in timm < 1.0.16

    with ThreadPoolExecutor() as pool:  # PIL decodes outside Python's lock
        list(pool.map(store, [range(i, min(i + 256, len(images))) for i in range(0, len(images), 256)]))
    return stored

"""Fashion-MNIST from torchvision's folder or from Debian's package `dataset-fashion-mnist` (Xiao et al., 2017)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import FashionMNIST

from kdbench.errors import KDBenchError
from kdbench.tasks.image.data.absent import absent, attempt
from kdbench.tasks.image.data.sets import STORED_SIZE, ImageData, channel_statistics, resize

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
PADDED = 32  # px; the field pads the 28x28 images by 2 on each side so that they can be halved five times
RIM = 2  # px
CLASSES = 10
STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def load(root: Path, image_size: int | None = None, download: bool = False) -> ImageData:
    """60,000 training and 10,000 test images of 10 classes, `[N, 1, 32, 32]`: 28x28 with a black rim of 2.

    Args:
        image_size: 28 keeps the images as they are; sizes other than 28 and 32 are made from the 28x28 images.

    Raises:
        KDBenchError: if the files are absent or damaged.
    """
    files = _find(root)
    if files is None and download:
        with attempt("fashion_mnist", root, _WHAT):
            FashionMNIST(str(root), download=True)
        files = _find(root)
    if files is None:
        raise absent("fashion_mnist", root, _WHAT)
    dimensions = [3 if "idx3" in stem else 1 for stem in STEMS]
    train_images, train_targets, test_images, test_targets = map(_read_idx, files, dimensions)
    for path, targets in ((files[1], train_targets), (files[3], test_targets)):
        if len(targets) and targets.max() >= CLASSES:
            raise KDBenchError(
                f"data file {str(path)!r} has label {int(targets.max())} of {CLASSES} classes: fetch it anew"
            )
    if len(train_images) != len(train_targets) or len(test_images) != len(test_targets):
        raise KDBenchError(
            f"fashion_mnist in {str(files[0].parent)!r} has not one label an image: fetch the files anew"
        )
    size = image_size or PADDED
    train_images, test_images = (_fit(images.unsqueeze(1), size) for images in (train_images, test_images))
    mean, std = channel_statistics(train_images)
    return ImageData(
        name="fashion_mnist",
        train_images=train_images,
        train_targets=train_targets.long(),
        test_images=test_images,
        test_targets=test_targets.long(),
        num_classes=CLASSES,
        classes=tuple(FashionMNIST.classes),
        mean=mean,
        std=std,
        image_size=size,
        rim=RIM if size == PADDED else 0,
    )


_WHAT = (
    "the files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
    "(or their .gz) into its folder FashionMNIST/raw, or install Debian's package dataset-fashion-mnist"
)


def _find(root: Path) -> list[Path] | None:
    """The four files in the order of `STEMS`, from the first folder that has them all."""
    for folder in (root / "FashionMNIST" / "raw", root / "fashion-mnist", root, DEBIAN_FOLDER):
        found = [
            next((file for file in (folder / f"{stem}-ubyte", folder / f"{stem}-ubyte.gz") if file.is_file()), None)
            for stem in STEMS
        ]
        if all(found):
            return [file for file in found if file]
    return None


def _read_idx(path: Path, wanted: int) -> Tensor:
    """Read an IDX file of bytes in `wanted` dimensions: a magic number 0x0000_08_<dimensions>, the big-endian sizes,
    the values.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic = struct.unpack_from(">I", content)[0]
        dimensions = magic & 0xFF
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if magic >> 8 != 0x08 or len(content) != 4 * (dimensions + 1) + math.prod(shape):
            raise ValueError("not an IDX file of bytes, or cut short")
        if dimensions != wanted:
            raise ValueError(f"it has {dimensions} dimensions, not {wanted}")
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise KDBenchError(f"data file {str(path)!r} cannot be read ({error}): fetch it anew") from error
    values = np.frombuffer(content, np.uint8, offset=4 * (dimensions + 1)).reshape(shape)
    return torch.from_numpy(values.copy())


def _fit(images: Tensor, size: int) -> Tensor:
    if size == PADDED:
        return F.pad(images, (RIM,) * 4)
    return resize(images, size) if size <= STORED_SIZE else images

"""Names of data sets -> the data."""

from __future__ import annotations

import os
from pathlib import Path

from kdbench.errors import KDBenchError, unknown
from kdbench.registry.catalogue import DATASETS
from kdbench.tasks.image.data import cifar, digits, fashion_mnist, folder, timm_sets, tiny_imagenet
from kdbench.tasks.image.data.sets import Data


def data_root(root: str | Path | None = None) -> Path:
    """The data folder: the argument, else the variable KDBENCH_DATA, else ~/.cache/kdbench/data.

    Raises:
        KDBenchError: if that is in the home of a user who has none (as a container's may).
    """
    return _expanded(root or os.environ.get("KDBENCH_DATA") or "~/.cache/kdbench/data")


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise KDBenchError(
            f"{str(path)!r} is in the home of a user who has none: name the data folder by --data or KDBENCH_DATA"
        ) from error


def load(name: str, root: str | Path | None = None, *, image_size: int | None = None, download: bool = False) -> Data:
    """Load a data set by name.

    Args:
        name: `digits`, `fashion_mnist`, `cifar10`, `cifar100`, `tiny_imagenet`, `imagenet`, `folder:/path/of/images`
            or `timm:NAME` with a name of `timm.data.create_dataset`, e.g. `timm:torch/oxford_iiit_pet`.
        root: the data folder (`data_root`).
        image_size: side of the images a loader will give, in px; None: the set's own.
        download: fetch an absent set where torchvision or timm can.

    Returns:
        `ImageData` for the first four, `StreamedData` for the others.

    Raises:
        KDBenchError: if the set is unknown, absent or damaged, or the size is no positive whole number.
    """
    if image_size is not None and (not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1):
        raise KDBenchError(f"image_size is {image_size!r}, but it must be a positive whole number of pixels, e.g. 32")
    if name == "digits":
        return digits.load(image_size)  # it comes with scikit-learn, so it needs no folder
    folder_root = data_root(root)
    if name == "fashion_mnist":
        return fashion_mnist.load(folder_root, image_size, download)
    if name in cifar.LOADERS:
        return cifar.load(name, folder_root, image_size, download)
    if name == "tiny_imagenet":
        return tiny_imagenet.load(folder_root, image_size)
    if name == "imagenet":
        return folder.load(name, folder_root / "imagenet", image_size)
    kind, _, rest = name.partition(":")
    if kind == "folder" and rest:
        return folder.load(name, _expanded(rest), image_size)
    if kind == "timm" and rest:
        return timm_sets.load(rest, folder_root, image_size, download)
    raise unknown("dataset", name, DATASETS)

"""CIFAR-10 and CIFAR-100 through torchvision, which checks the MD5 sum of every file before it unpickles it."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from kdbench.errors import KDBenchError
from kdbench.tasks.image.data.absent import absent, attempt
from kdbench.tasks.image.data.sets import STORED_SIZE, ImageData, resize

# The field's statistics of the training sets (CIFAR-100's as in CRD).
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
LOADERS: dict[str, type[CIFAR10]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def load(name: str, root: Path, image_size: int | None = None, download: bool = False) -> ImageData:
    """50,000 training and 10,000 test images `[N, 3, 32, 32]`.

    Raises:
        KDBenchError: if the files are absent, or one is not the file the authors published.
    """
    loader = LOADERS[name]
    _prepare(name, loader, root, download)
    train, test = loader(str(root), train=True), loader(str(root), train=False)
    train_images, test_images = (torch.from_numpy(split.data).permute(0, 3, 1, 2) for split in (train, test))
    if image_size and image_size <= STORED_SIZE:
        train_images, test_images = resize(train_images, image_size), resize(test_images, image_size)
    mean, std = STATISTICS[name]
    return ImageData(
        name=name,
        train_images=train_images,
        train_targets=torch.tensor(train.targets),
        test_images=test_images,
        test_targets=torch.tensor(test.targets),
        num_classes=len(train.classes),
        classes=tuple(train.classes),
        mean=mean,
        std=std,
        image_size=image_size or 32,
    )


def _prepare(name: str, loader: type[CIFAR10], root: Path, download: bool) -> None:
    """Make sure that every file is there and is the published one; unpack or download the archive if need be."""
    what = f"the folder {loader.base_folder} of {loader.filename} (or that file itself) into it"
    folder = root / loader.base_folder
    sums = {**dict(loader.train_list), **dict(loader.test_list), loader.meta["filename"]: loader.meta["md5"]}
    missing = [file for file in sums if not (folder / file).is_file()]
    if missing and (download or check_integrity(str(root / loader.filename), loader.tgz_md5)):
        with attempt(name, root, what):
            loader(str(root), download=True)
    elif missing:
        raise absent(name, root, what)
    for file, md5 in sums.items():
        if not check_integrity(str(folder / file), md5):
            raise KDBenchError(
                f"data file {str(folder / file)!r} is not the published one (its MD5 sum is not {md5}), "
                f"so it is not opened: unpack {loader.filename} anew"
            )

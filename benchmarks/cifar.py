"""Random images in CIFAR-100's own files, which every side of a comparison reads with its own code."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100


def write_cifar100(root: Path, train: int, test: int, patch: pytest.MonkeyPatch) -> None:
    """Write the folder `cifar-100-python`, and let torchvision expect these files' MD5 sums in place of the real ones.

    Args:
        root: the data folder.
        train, test: images of each split.
        patch: takes the change of torchvision back.
    """
    folder, random = root / CIFAR100.base_folder, np.random.default_rng(0)
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def split(name: str, count: int) -> list[list[str]]:
        pixels, labels = random.integers(0, 256, (count, 3072), np.uint8), random.integers(0, 100, count)
        return [[name, write(name, {"data": pixels, "fine_labels": labels.tolist()})]]

    names = [f"class {number}" for number in range(100)]
    sum_of_meta = write(CIFAR100.meta["filename"], {CIFAR100.meta["key"]: names})
    patch.setattr(CIFAR100, "train_list", split("train", train))
    patch.setattr(CIFAR100, "test_list", split("test", test))
    patch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sum_of_meta})

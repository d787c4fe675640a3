"""Image folders: `train/` and `val/` (or `test/`) with one folder per class; ImageNet is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.readers.reader_image_folder import find_images_and_targets

from kdbench.errors import KDBenchError
from kdbench.suites import folders
from kdbench.tasks.image.data.absent import absent
from kdbench.tasks.image.data.pictures import EXTENSIONS, opened
from kdbench.tasks.image.data.sets import StreamedData

IMAGE_SIZE = 224  # px, where the user names none


class ImageFiles:
    """The RGB images of a list of files."""

    def __init__(self, paths: Sequence[Path | str]):
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return opened(self.paths[index])


def load(name: str, folder: Path, image_size: int | None = None) -> StreamedData:
    """An image folder; classes are the folder names in timm's order (numbers inside names count as numbers).

    Raises:
        KDBenchError: if a part is absent, or a test class has no training images.
    """
    train, train_classes = _scan(name, folder, folders.TRAIN)
    test, test_classes = _scan(name, folder, folders.TEST)
    if strangers := sorted(set(test_classes) - set(train_classes)):
        raise KDBenchError(
            f"dataset {name!r} has test images of class {strangers[0]!r} but no training images: add some"
        )
    to_train = {index: train_classes[c] for c, index in test_classes.items()}
    return StreamedData(
        name=name,
        train=ImageFiles([path for path, _ in train]),
        train_targets=torch.tensor([target for _, target in train]),
        test=ImageFiles([path for path, _ in test]),
        test_targets=torch.tensor([to_train[target] for _, target in test]),
        num_classes=len(train_classes),
        classes=tuple(train_classes),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        image_size=image_size or IMAGE_SIZE,
    )


def _scan(name: str, folder: Path, splits: Sequence[str]) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """The files of the first split that exists, as (path, target), and the class indices."""
    split = folders.split(folder, splits)
    if split is None:
        what = "a folder train and a folder val (or test), each with one folder of images a class, into it"
        raise absent(name, folder, what)
    found, index = find_images_and_targets(str(split), types=EXTENSIONS)
    names = {target: c for c, target in index.items()}
    kept = [(path, names[target]) for path, target in found if _of_a_class(Path(path).relative_to(split))]
    if not kept:
        raise KDBenchError(f"folder {str(split)!r} has no images in class folders: put some there")
    present = {c for _, c in kept}
    classes = {c: number for number, c in enumerate(c for c in index if c in present)}
    return [(path, classes[c]) for path, c in kept], classes


def _of_a_class(path: Path) -> bool:
    """Whether a picture lies in a class folder: not beside them, and in nothing that a program hides (`.git`)."""
    return len(path.parts) > 1 and not any(part.startswith(".") for part in path.parts)

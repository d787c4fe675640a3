"""Tiny-ImageNet: 200 classes, 500 training and 50 validation images each, 64x64; evaluated on the validation set."""

from __future__ import annotations

from pathlib import Path

import torch

from kdbench.errors import KDBenchError
from kdbench.tasks.image.data.absent import absent
from kdbench.tasks.image.data.folder import ImageFiles
from kdbench.tasks.image.data.sets import StreamedData

FOLDER = "tiny-imagenet-200"
# The field's statistics of the training set.
MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)


def load(root: Path, image_size: int | None = None) -> StreamedData:
    """The set as it is unpacked; classes in alphabetical order of their WordNet ids, as torchvision's ImageFolder.

    Raises:
        KDBenchError: if the folder or a part of it is absent.
    """
    folder = root / FOLDER
    annotations = folder / "val" / "val_annotations.txt"
    for part in (folder / "wnids.txt", folder / "train", annotations):
        if not part.exists():
            what = f"the folder {FOLDER} of tiny-imagenet-200.zip (with wnids.txt, train and val/val_annotations.txt)"
            raise absent("tiny_imagenet", root, f"{what} into it")
    classes = sorted((folder / "wnids.txt").read_text().split())
    index = {wnid: i for i, wnid in enumerate(classes)}
    train = [(path, index[c]) for c in classes for path in sorted((folder / "train" / c / "images").glob("*.JPEG"))]
    rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines() if line.strip()]
    if strangers := {row[-1] for row in rows} - set(index):
        raise KDBenchError(
            f"{str(annotations)!r} names class {min(strangers)!r}, which wnids.txt lacks: unpack it anew"
        )
    test = [(folder / "val" / "images" / file, index[wnid]) for file, wnid in rows]
    if not train or not test:
        raise KDBenchError(f"tiny_imagenet in {str(folder)!r} has no training or no validation images: unpack it anew")
    return StreamedData(
        name="tiny_imagenet",
        train=ImageFiles([path for path, _ in train]),
        train_targets=torch.tensor([target for _, target in train]),
        test=ImageFiles([path for path, _ in test]),
        test_targets=torch.tensor([target for _, target in test]),
        num_classes=len(classes),
        classes=tuple(classes),
        mean=MEAN,
        std=STD,
        image_size=image_size or 64,
    )

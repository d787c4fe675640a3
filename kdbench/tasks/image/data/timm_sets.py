"""Any set timm or torchvision can give by index, e.g. `timm:torch/oxford_iiit_pet` or `timm:hfds/uoft-cs/cifar10`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision.datasets
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset
from torch import Tensor

from kdbench.errors import KDBenchError, unknown
from kdbench.tasks.hub import offline
from kdbench.tasks.image.data.absent import attempt
from kdbench.tasks.image.data.folder import IMAGE_SIZE
from kdbench.tasks.image.data.sets import StreamedData

# torchvision's sets that timm.data.create_dataset does not know: class, splits to train on, split to test on.
TORCHVISION: dict[str, tuple[str, tuple[str, ...], str]] = {
    "oxford_iiit_pet": ("OxfordIIITPet", ("trainval",), "test"),
    "flowers102": ("Flowers102", ("train", "val"), "test"),
    "food101": ("Food101", ("train",), "test"),
    "fgvc_aircraft": ("FGVCAircraft", ("trainval",), "test"),
    "dtd": ("DTD", ("train", "val"), "test"),
}
# Those it knows and that have one label an image.
TIMM_TORCH = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "imagenet", "places365")
SEQUENTIAL = ("tfds", "wds", "hfids")


class DatasetImages:
    """The RGB images of one or more data sets of timm or torchvision, one after the other."""

    def __init__(self, datasets: Sequence[Any]):
        self.datasets = list(datasets)

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets)

    def __getitem__(self, index: int) -> Image.Image:
        position = index
        for dataset in self.datasets:
            if position < len(dataset):
                return self._open(dataset, position)
            position -= len(dataset)
        raise IndexError(index)

    def _open(self, dataset: Any, index: int) -> Image.Image:
        # timm's ImageDataset gives the next image for a damaged one, which would come with the wrong label.
        try:
            image = Image.open(dataset.reader[index][0]) if hasattr(dataset, "reader") else dataset[index][0]
            return image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise KDBenchError(
                f"image {index} of a timm dataset cannot be read ({error}): fetch the set anew"
            ) from error


def load(name: str, root: Path, image_size: int | None = None, download: bool = False) -> StreamedData:
    """Make the set of timm's name `name` (without the prefix `timm:`).

    Raises:
        KDBenchError: if timm does not know the name, cannot give samples by index, or the files are absent.
    """
    prefix, _, rest = name.partition("/")
    prefix = prefix.lower()
    if prefix in SEQUENTIAL:
        raise KDBenchError(
            f"timm dataset {name!r} is read in sequence, but kdbench needs samples by index: "
            "use a set of torch/ or hfds/, or an image folder (folder:PATH)"
        )
    known = [f"torch/{known}" for known in (*TORCHVISION, *TIMM_TORCH)]
    if not (prefix == "hfds" and rest) and f"{prefix}/{rest.lower()}" not in known:
        raise unknown("timm dataset", name, known, "or hfds/NAME for one of Hugging Face")
    if prefix == "hfds":
        if importlib.util.find_spec("datasets") is None:
            raise KDBenchError(f"dataset 'timm:{name}' needs the package datasets: pip install datasets")
        importlib.import_module("datasets")  # before it is kept offline
    what = f"its files there as {'torchvision' if prefix == 'torch' else 'Hugging Face datasets'} lays them out"
    failure = "its download failed" if download else "it cannot be opened without a download"
    with attempt(f"timm:{name}", root, what, failure), offline(prefix == "hfds" and not download):
        train, test = _open_splits(name, root, download)
        train_targets, test_targets = _targets(train), _targets(test)
    if min(train_targets.min(), test_targets.min()) < 0:
        raise KDBenchError(f"timm dataset {name!r} has samples without a label: kdbench needs one class per sample")
    num_classes = int(max(train_targets.max(), test_targets.max())) + 1
    return StreamedData(
        name=f"timm:{name}",
        train=DatasetImages(train),
        train_targets=train_targets,
        test=DatasetImages(test),
        test_targets=test_targets,
        num_classes=num_classes,
        classes=_classes(train[0], num_classes),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        image_size=image_size or IMAGE_SIZE,
    )


def _open_splits(name: str, root: Path, download: bool) -> tuple[list[Any], list[Any]]:
    """The data sets to train on and to test on."""
    prefix, _, rest = name.partition("/")
    if prefix.lower() == "torch" and rest.lower() in TORCHVISION:
        kind, train_splits, test_split = TORCHVISION[rest.lower()]
        make = getattr(torchvision.datasets, kind)
        train = [make(str(root), split=split, download=download) for split in train_splits]
        return train, [make(str(root), split=test_split, download=download)]
    return [create_dataset(name, root=str(root), split="train", download=download)], [_test(name, root, download)]


def _test(name: str, root: Path, download: bool) -> Any:
    """The set's validation split, or its test split where it has none."""
    try:
        return create_dataset(name, root=str(root), split="validation", download=download)
    except ValueError:  # what Hugging Face datasets raises for a split that does not exist
        return create_dataset(name, root=str(root), split="test", download=download)


def _targets(datasets: Sequence[Any]) -> Tensor:
    """All labels `[N]`, without opening an image where the set allows it."""
    return torch.cat([torch.as_tensor(_labels(dataset), dtype=torch.int64) for dataset in datasets])


def _labels(dataset: Any) -> Sequence[int]:
    for name in ("targets", "_labels"):  # where torchvision's sets keep them
        if hasattr(dataset, name):
            return getattr(dataset, name)
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(reader, "samples"):
        return [sample[1] for sample in reader.samples]
    if hasattr(reader, "label_key"):
        return reader.dataset[reader.label_key]
    return [dataset[i][1] for i in range(len(dataset))]


def _classes(dataset: Any, num_classes: int) -> tuple[str, ...]:
    """The names the set gives its classes, else their numbers."""
    index = getattr(dataset, "class_to_idx", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    names = {i: str(name) for name, i in (index or {}).items()}
    return tuple(names.get(i, str(i)) for i in range(num_classes))

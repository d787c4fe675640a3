"""Pictures that a user gives, as the test set of a data set: seen by networks as its own test pictures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kdbench.tasks.image.data.folder import ImageFiles
from kdbench.tasks.image.data.sets import Data, ImageData, centre_transform


def of_files(data: Data, paths: Sequence[str]) -> Data:
    """The data set with these picture files in place of its test set; their targets are 0.

    Raises:
        KDBenchError: naming the file, if one cannot be read; of a set on disk, when it is read.
    """
    targets, files = torch.zeros(len(paths), dtype=torch.int64), ImageFiles(paths)
    if not isinstance(data, ImageData):
        return replace(data, test=files, test_targets=targets)
    images = torch.stack([_stored(files[place], data) for place in range(len(files))])
    return replace(data, test_images=images, test_targets=targets)


def _stored(picture: Image.Image, data: ImageData) -> Tensor:
    """A picture as the set stores its images, uint8 `[C, H, H]`: as it is, if it has H or, with the set's rim, fits."""
    channels, side = data.train_images.shape[1], data.train_images.shape[-1]
    rim = 0 if picture.size == (side, side) else data.rim
    shown = picture.convert("L") if channels == 1 else picture
    pixels = torch.as_tensor(centre_transform(side - 2 * rim)(shown))
    return F.pad(pixels, (rim,) * 4)

"""scikit-learn's 1,797 handwritten digits, 8x8, which lie inside the package: no download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from kdbench.tasks.image.data.sets import STORED_SIZE, ImageData, channel_statistics, resize


def load(image_size: int | None = None) -> ImageData:
    """1,437 training and 360 test images `[N, 1, 8, 8]`, each class split 80/20 by a fixed seed."""
    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * 255 / 16).astype(np.uint8)).unsqueeze(1)  # values were 0..16
    images = resize(images, image_size) if image_size and image_size <= STORED_SIZE else images
    targets = torch.from_numpy(digits.target).long()
    train, test = (
        torch.from_numpy(index)
        for index in train_test_split(np.arange(len(targets)), test_size=0.2, stratify=digits.target, random_state=0)
    )
    mean, std = channel_statistics(images[train])
    return ImageData(
        name="digits",
        train_images=images[train],
        train_targets=targets[train],
        test_images=images[test],
        test_targets=targets[test],
        num_classes=10,
        classes=tuple(str(digit) for digit in range(10)),
        mean=mean,
        std=std,
        image_size=image_size or 8,
    )

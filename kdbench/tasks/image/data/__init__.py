"""Data: sources, protocols (noise, imbalance), and on-device batches with augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.tasks import protocols
from kdbench.tasks.image.data.loader import DeviceLoader, Loader
from kdbench.tasks.image.data.sets import Data, ImageData, StreamedData
from kdbench.tasks.image.data.sources import DATASETS, data_root, load
from kdbench.tasks.image.data.stream import StreamLoader

__all__ = ["DATASETS", "Data", "DeviceLoader", "ImageData", "Loader", "StreamLoader", "StreamedData", "data_root",
           "load", "load_data", "make_loader"]  # fmt: skip

MEMORY_LIMIT = 2 * 2**30  # bytes of uint8 images up to which a set is kept in memory


def load_data(
    name: str,
    *,
    root: str | Path | None = None,
    protocol: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    download: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Data:
    """Load a set (`sources.load`), apply a protocol (`protocols.apply`), and decode it into memory if it fits there.

    `imagenet` and sets of timm are always streamed, so that their augmentation does not depend on the limit.

    Raises:
        KDBenchError: if the set or the protocol is unknown or the files are absent or damaged.
    """
    data = protocols.apply(load(name, root, image_size=image_size, download=download), protocol)
    streamed = name == "imagenet" or name.startswith("timm:")
    if isinstance(data, StreamedData) and not streamed and data.num_bytes <= memory_limit:
        return data.in_memory()
    return data


def make_loader(
    data: Data, batch_size: int, *, workers: int | None = None, together: int | None = None, **options: Any
) -> Loader:
    """The loader of a set in memory or on disk; `options` as in `Loader`, `together` of the former, `workers` of the
    latter only.
    """
    if isinstance(data, ImageData):
        return DeviceLoader(data, batch_size, together=together, **options)
    return StreamLoader(data, batch_size, workers=workers, **options)

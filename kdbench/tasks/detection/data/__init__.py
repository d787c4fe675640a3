"""Data sets of detection by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.registry.catalogue import SCENES
from kdbench.tasks.detection.data import coco, scenes, voc
from kdbench.tasks.detection.data.sets import MULTIPLE, DetectionData, hold_out
from kdbench.tasks.image.data.sources import data_root

__all__ = ["load"]

SIDE = 640  # px of a picture's longer side, where the recipe does not say


def load(
    name: str,
    root: str | Path | None = None,
    *,
    image_size: int = 0,
    protocol: Mapping[str, Any] | None = None,
    download: bool = False,
) -> DetectionData:
    """Load a data set.

    Args:
        name: `fashion_scenes`, `coco`, `voc2007`, `voc2012`, or `folder:PATH` with COCO's annotations in it.
        image_size: of a picture's longer side, in px, a multiple of 32; 0: 640, or the scenes' own.
        protocol: `validation`, or nothing.

    Raises:
        KDBenchError: if the set is unknown, absent or damaged, has nothing to be found in its test pictures, or the
            size is none.
    """
    own = name.partition("(")[0] == scenes.NAME
    size = image_size or (scenes.SIDE if own else SIDE)
    if size % MULTIPLE:
        raise KDBenchError(f"image_size is {size}, but a detector's cells need a multiple of {MULTIPLE}: give another")
    folder = data_root(root)
    kind, _, path = name.partition(":")
    if own:
        data = scenes.load(name, folder, size, download)
    elif name == "coco":
        data = coco.load(name, folder / "coco", size)
    elif name in ("voc2007", "voc2012"):
        data = voc.load(name, folder, size, download)
    elif kind == "folder" and path:
        data = coco.load(name, data_root(path), size)
    else:
        raise unknown("dataset of detection", name, SCENES)
    data = hold_out(data, protocol or {})
    for what, part in (("training", data.train), ("test", data.test)):
        if not any((~crowds).any() for crowds in part.crowds):
            raise KDBenchError(f"no {what} picture of dataset {name!r} has an object: nothing can be learnt or scored")
    return data

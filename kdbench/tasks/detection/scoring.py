"""Average precision as COCO defines it, by faster-coco-eval, with a stated rule for what is not there.

- An object class, or a size class, without objects in the test pictures has no score: it takes no part in a mean, and a
  mean of nothing is None, not a number.
- Where there are objects and nothing is found, the score is 0. Pictures without objects count: what is found there is
  false.
- `cap` is the number of detections of a picture that count, the surest first; records keep it with the score.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import faster_coco_eval
import numpy as np
from torch import Tensor

from kdbench.tasks.detection.data.sets import Split

library: Any = faster_coco_eval  # its classes have no types
CAP = 100  # COCO's
AREAS = ("", "_small", "_medium", "_large")  # in the order of faster-coco-eval


def average_precision(
    found: Sequence[Mapping[str, Tensor]], truth: Split, categories: Sequence[int], cap: int = CAP
) -> dict[str, float | None]:
    """Scores in percent: `ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`.

    Args:
        found: of each picture of `truth`, in its order: `boxes [m, 4]` in its own pixels, `scores [m]`, `labels [m]`.
        categories: the data set's own numbers of the classes, by label.
    """
    rows = [
        {"image_id": picture, "category_id": categories[label], "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for picture, each in enumerate(found)
        for (x0, y0, x1, y1), score, label in zip(
            each["boxes"].tolist(), each["scores"].tolist(), each["labels"].tolist(), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = library.COCO(in_coco_format(truth, categories))
        precision = _precision(reference, rows, cap) if rows else np.zeros((10, 101, len(categories), 4))
    if not rows:
        precision[:, :, ~_present(truth, len(categories))] = -1
    scores = {f"ap{area}": _mean(precision[:, :, :, place]) for place, area in enumerate(AREAS)}
    thresholds = {"ap50": 0, "ap75": 5}
    return {**scores, **{name: _mean(precision[place, :, :, 0]) for name, place in thresholds.items()}}


def in_coco_format(truth: Split, categories: Sequence[int]) -> dict[str, Any]:
    """The objects in COCO's format, with the data set's own numbers of the classes; pictures are numbered from 0."""
    entries: list[dict[str, Any]] = []
    for picture in range(len(truth)):
        columns = (truth.boxes[picture], truth.labels[picture], truth.areas[picture], truth.crowds[picture])
        for (x0, y0, x1, y1), label, area, crowd in zip(*(column.tolist() for column in columns), strict=True):
            entries.append({
                "id": len(entries) + 1, "image_id": picture, "category_id": categories[label], "area": area,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": int(crowd),
            })  # fmt: skip
    sizes = truth.sizes.tolist()
    images = [{"id": picture, "height": height, "width": width} for picture, (height, width) in enumerate(sizes)]
    return {"images": images, "annotations": entries, "categories": [{"id": c, "name": str(c)} for c in categories]}


def _precision(reference: Any, rows: list[dict[str, Any]], cap: int) -> np.ndarray:
    """At 10 thresholds of IoU, 101 of recall, for each class and of `AREAS`; -1 where there is nothing to be found."""
    judge = library.COCOeval_faster(reference, reference.loadRes(rows), "bbox")
    judge.params.maxDets = [1, 10, cap]
    judge.evaluate()
    judge.accumulate()
    return np.asarray(judge.eval["precision"])[..., -1]


def _present(truth: Split, classes: int) -> np.ndarray:
    """Which classes have objects in which of `AREAS`, `[K, 4]`."""
    present = np.zeros((classes, len(AREAS)), dtype=bool)
    for labels, areas, crowds in zip(truth.labels, truth.areas, truth.crowds, strict=True):
        for label, area, crowd in zip(labels.tolist(), areas.tolist(), crowds.tolist(), strict=True):
            ranges = (True, area <= 32**2, 32**2 <= area <= 96**2, area >= 96**2)  # COCO's, both ends included
            present[label] |= np.array(ranges) & (not crowd)
    return present


def _mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(100 * known.mean()) if known.size else None

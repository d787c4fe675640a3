"""Average precision against values worked out by hand, and the rules for what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.tasks.detection.data import coco
from kdbench.tasks.detection.data.sets import Stored
from kdbench.tasks.detection.scoring import average_precision

CATEGORIES = {"cat": 1, "dog": 3, "cow": 90}
NUMBERS = list(CATEGORIES.values())
PARTS = ("boxes", "labels", "areas", "crowds")


def truth(*pictures: Sequence[Sequence[float]], side: int = 200, **fields: Any) -> Any:
    """Pictures with boxes x y width height, all cats unless a fifth number says which category."""
    images = [{"id": k, "width": side, "height": side, "file_name": f"{k}.png"} for k in range(len(pictures))]
    entries = [
        {"id": 1, "image_id": k, "category_id": int(row[4]) if len(row) > 4 else 1, "bbox": list(row[:4]), **fields}
        for k, rows in enumerate(pictures)
        for row in rows
    ]
    table = {
        "images": images,
        "annotations": entries,
        "categories": [{"id": number, "name": name} for name, number in CATEGORIES.items()],
    }
    return coco.split(table, CATEGORIES, "test", Stored(torch.zeros(len(pictures), 1, 1, 1)))


def said(*rows: Sequence[float]) -> dict[str, Tensor]:
    """Boxes x y width height, score, and a label if it is not 0."""
    boxes = torch.tensor([[r[0], r[1], r[0] + r[2], r[1] + r[3]] for r in rows]).reshape(-1, 4)
    labels = torch.tensor([int(r[5]) if len(r) > 5 else 0 for r in rows], dtype=torch.int64)
    return {"boxes": boxes, "scores": torch.tensor([float(r[4]) for r in rows]), "labels": labels}


def test_one_box_counts_at_the_thresholds_that_its_overlap_reaches() -> None:
    scores = average_precision([said((0, 0, 10, 6.2, 0.9))], truth([(0, 0, 10, 10)]), NUMBERS)  # IoU 0.62
    assert scores["ap"] == pytest.approx(30.0)  # at 0.50, 0.55 and 0.60 of ten thresholds
    assert scores["ap50"] == pytest.approx(100.0)
    assert scores["ap75"] == pytest.approx(0.0)


def test_a_false_alarm_between_two_hits_costs_what_interpolation_says() -> None:
    found = [said((0, 0, 10, 10, 0.9), (100, 100, 9, 9, 0.8), (50, 50, 10, 10, 0.7))]
    scores = average_precision(found, truth([(0, 0, 10, 10), (50, 50, 10, 10)]), NUMBERS)
    # precision 1 up to recall 0.5 (51 of 101 points), then 2/3
    assert scores["ap"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_classes_are_averaged_and_one_without_objects_takes_no_part() -> None:
    found = [said((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.9, 1))]
    assert average_precision(found, truth([(0, 0, 10, 10, 1), (50, 50, 10, 10, 90)]), NUMBERS)["ap"] == pytest.approx(
        50
    )


def test_nothing_found_is_zero() -> None:
    scores = average_precision([said()], truth([(0, 0, 10, 10), (0, 0, 50, 50)]), NUMBERS)
    assert scores == {"ap": 0, "ap50": 0, "ap75": 0, "ap_small": 0, "ap_medium": 0, "ap_large": None}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("alarm", "expected"), [(0.9, 50.0), (0.3, 100.0)])
def test_false_alarms_on_an_empty_picture_count_in_any_order(alarm: float, expected: float, swapped: bool) -> None:
    found, pictures = [said((0, 0, 10, 10, 0.6)), said((0, 0, 10, 10, alarm))], [[(0, 0, 10, 10)], []]
    if swapped:
        found, pictures = found[::-1], pictures[::-1]
    assert average_precision(found, truth(*pictures), NUMBERS)["ap"] == pytest.approx(expected)


@pytest.mark.parametrize("found", [said(), said((0, 0, 10, 10, 0.9))], ids=["nothing", "an alarm"])
def test_without_objects_there_is_no_score(found: dict[str, Tensor]) -> None:
    assert set(average_precision([found], truth([]), NUMBERS).values()) == {None}


@pytest.mark.parametrize(("cap", "expected"), [(100, 100 * 67 / 101), (300, 100.0)])
def test_the_cap_is_that_of_the_headline_too(cap: int, expected: float) -> None:
    boxes = [(10 * (k % 15), 10 * (k // 15), 8, 8) for k in range(150)]
    found = [said(*((*box, 0.99 - k / 1000) for k, box in enumerate(boxes)))]
    scores = average_precision(found, truth(boxes), NUMBERS, cap=cap)
    assert scores["ap"] == pytest.approx(expected, abs=1e-9)
    assert scores["ap50"] == pytest.approx(expected, abs=1e-9)


def test_the_files_area_says_how_large_an_object_is() -> None:
    scores = average_precision([said((0, 0, 40, 40, 0.9))], truth([(0, 0, 40, 40)], area=900.0), NUMBERS)
    assert (scores["ap_small"], scores["ap_medium"]) == (pytest.approx(100), None)


def test_a_crowd_is_neither_found_nor_missed() -> None:
    pictures = truth([(0, 0, 10, 10)])
    crowd = truth([(50, 50, 40, 40)], iscrowd=1)
    both = type(pictures)(
        pictures.pictures, pictures.names, pictures.sizes,
        *((torch.cat([getattr(each, k)[0] for each in (pictures, crowd)]),) for k in PARTS),
    )  # fmt: skip
    found = [said((50, 50, 12, 12, 0.95), (0, 0, 10, 10, 0.9))]
    assert average_precision(found, both, NUMBERS)["ap"] == pytest.approx(100)

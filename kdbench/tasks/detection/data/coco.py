"""COCO's annotations (Lin et al., ECCV 2014): the format of most detection sets, and COCO itself.

FOLDER/annotations/instances_train.json, instances_val.json      (or instances_train2017.json, instances_test.json)
FOLDER/train/*.jpg, FOLDER/val/*.jpg                             (or train2017, or FOLDER/images)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import AbsentData, KDBenchError
from kdbench.tasks.detection.data.sets import IMAGENET, DetectionData, Files, Pictures, Split

TRAIN, TEST = ("train", "train2017", "training"), ("val", "val2017", "valid", "validation", "test")
THINNEST = 2**-20  # of a picture's longer side: of a thinner box float32 leaves no area once it is resized or flipped
WHAT = (
    "annotations/instances_train2017.json and instances_val2017.json, and the pictures into its folders train2017 and "
    "val2017"
)


def load(name: str, folder: Path, size: int) -> DetectionData:
    """A folder of pictures with COCO's annotations.

    Raises:
        KDBenchError: if a file is absent, unreadable or not of that format.
    """
    tables, images = [], []
    for kind, names in (("training", TRAIN), ("test", TEST)):
        found = [part for part in names if (folder / "annotations" / f"instances_{part}.json").is_file()]
        if not found:
            raise AbsentData(
                f"dataset {name!r} has no annotations of its {kind} pictures in {str(folder / 'annotations')!r}: put "
                f"{WHAT if name == 'coco' else f'instances_{names[0]}.json there'} (KDBENCH_DATA or --data names "
                "another data folder)"
            )
        path = folder / "annotations" / f"instances_{found[0]}.json"
        tables.append(_read(path))
        images.append(next((folder / part for part in (found[0], "images") if (folder / part).is_dir()), folder))
    categories = categories_of(tables[0], name)
    splits = [split(table, categories, name, files(table, at, size)) for table, at in zip(tables, images, strict=True)]
    names, numbers = zip(*categories.items(), strict=True)
    return DetectionData(name, splits[0], splits[1], names, numbers, *IMAGENET, size)


def categories_of(table: Mapping[str, Any], name: str) -> dict[str, int]:
    """The classes' names and their own numbers, in the order of these.

    Raises:
        KDBenchError: if there are none, or two of one name.
    """
    rows = sorted((int(row["id"]), str(row["name"])) for row in table.get("categories", ()))
    found = {title: number for number, title in rows}
    if not found or len(found) < len(rows) or len({number for number, _ in rows}) < len(rows):
        raise KDBenchError(
            f"dataset {name!r} has {len(rows)} categories of {len(found)} different names: give each a name and number"
            " of its own"
        )
    return found


def split(table: Mapping[str, Any], categories: Mapping[str, int], name: str, pictures: Pictures) -> Split:
    """One part of a set, from its annotations; categories are matched by their names.

    Boxes are cut at the picture's edges; those without area, or thinner than `THINNEST`, are left out and counted.
    Pictures without objects stay.

    Raises:
        KDBenchError: for an object of an unknown class or picture, or a box that is no box.
    """
    labels = {title: place for place, title in enumerate(categories)}
    for row in table.get("categories", ()):
        if row["name"] not in labels:
            raise KDBenchError(f"dataset {name!r} is tested on class {row['name']!r}, which its training part has not")
    label_of = {row["id"]: labels[row["name"]] for row in table["categories"]}
    images = table["images"]
    rows: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
    for entry in table["annotations"]:
        if entry["image_id"] not in rows or entry["category_id"] not in label_of:
            key = "image_id" if entry["image_id"] not in rows else "category_id"
            raise KDBenchError(
                f"dataset {name!r} has an object ({entry.get('id')!r}) with {key} {entry[key]!r}, which it does not "
                "know: correct its annotations"
            )
        rows[entry["image_id"]].append(entry)
    parts: dict[str, list[Tensor]] = {key: [] for key in ("boxes", "labels", "areas", "crowds")}
    dropped = 0
    for image in images:
        found = rows[image["id"]]
        raw = torch.tensor([_box(entry, name) for entry in found], dtype=torch.float64).reshape(-1, 4)
        boxes = torch.cat([raw[:, :2], raw[:, :2] + raw[:, 2:]], 1)
        edge = torch.tensor([image["width"], image["height"]] * 2, dtype=torch.float64)
        boxes = torch.minimum(boxes.clamp(min=0), edge)
        real = (boxes[:, 2:] - boxes[:, :2] > THINNEST * max(image["width"], image["height"])).all(1)
        dropped += int((~real).sum())
        own = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        areas = [entry.get("area") or float(area) for entry, area in zip(found, own.tolist(), strict=True)]
        parts["boxes"].append(boxes[real])
        parts["labels"].append(torch.tensor([label_of[e["category_id"]] for e in found], dtype=torch.int64)[real])
        parts["areas"].append(torch.tensor(areas, dtype=torch.float64)[real])
        parts["crowds"].append(torch.tensor([bool(e.get("iscrowd", 0)) for e in found], dtype=torch.bool)[real])
    sizes = torch.tensor([[image["height"], image["width"]] for image in images], dtype=torch.int64).reshape(-1, 2)
    names = tuple(image["id"] for image in images)
    columns: dict[str, Any] = {key: tuple(column) for key, column in parts.items()}
    return Split(pictures, names, sizes, **columns, dropped=dropped)


def files(table: Mapping[str, Any], folder: Path, size: int) -> Files:
    """The pictures of annotations, in their order.

    Raises:
        KDBenchError: naming the first that is absent.
    """
    paths = tuple(folder / image["file_name"] for image in table["images"])
    if absent := next((path for path in paths if not path.is_file()), None):
        raise KDBenchError(f"picture {str(absent)!r} is named by the annotations and is not there: put it there")
    return Files(paths, size)


def write(folder: Path, part: str, table: Mapping[str, Any], pictures: Sequence[Any]) -> None:
    """Write one part of a set as `load` reads it.

    Args:
        pictures: PIL's, in the order of `table["images"]`.
    """
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for image, picture in zip(table["images"], pictures, strict=True):
        picture.save(folder / part / image["file_name"])
    (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(table), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KDBenchError(f"annotations {str(path)!r} cannot be read ({error}): fetch them anew") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(table.get(key), list)]
    if missing:
        raise KDBenchError(f"annotations {str(path)!r} have no list {missing[0]!r}: write them in COCO's format")
    return table


def _box(entry: Mapping[str, Any], name: str) -> list[float]:
    """x, y, width, height."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) and abs(v) < 1e9 for v in box):
        raise KDBenchError(
            f"dataset {name!r} has an object ({entry.get('id')!r}) with bbox {box!r}: give x, y, width and height"
        )
    return [float(value) for value in box]

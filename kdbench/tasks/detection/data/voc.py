"""Pascal VOC (Everingham et al., IJCV 2010) by torchvision: trainval for training, test (2007) or val to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.datasets import VOCDetection

from kdbench.errors import KDBenchError
from kdbench.tasks.detection.data import coco
from kdbench.tasks.detection.data.sets import IMAGENET, DetectionData, Files, Split
from kdbench.tasks.image.data.absent import attempt

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PARTS = {"2007": ("trainval", "test"), "2012": ("train", "val")}


def load(name: str, root: Path, size: int, download: bool) -> DetectionData:
    """`voc2007` or `voc2012`.

    Objects marked difficult are trained on, and neither found nor missed in the test, as the challenge has it.

    Raises:
        KDBenchError: if the files are absent or a label is none of the twenty.
    """
    year = name.removeprefix("voc")
    splits = []
    for part in PARTS[year]:
        what = f"torchvision's VOCdevkit/VOC{year} into it, or let torchvision download it"
        with attempt(name, root, what, "torchvision does not find it"):
            found = VOCDetection(str(root), year, part, download=download)
        splits.append(_split(name, found, size, tested=part != PARTS[year][0]))
    return DetectionData(name, splits[0], splits[1], CLASSES, tuple(range(1, 21)), *IMAGENET, size)


def _split(name: str, found: VOCDetection, size: int, tested: bool) -> Split:
    images, entries = [], []
    for number, (picture, annotation) in enumerate(zip(found.images, found.annotations, strict=True)):
        table = found.parse_voc_xml(_root(annotation))["annotation"]
        width, height = (int(table["size"][side]) for side in ("width", "height"))
        if not width or not height:
            with Image.open(picture) as image:
                width, height = image.size
        images.append({"id": Path(picture).stem, "width": width, "height": height})
        for each in table.get("object", ()):
            entries.append(_entry(name, number, images[-1]["id"], each, tested))
    table = {
        "images": images,
        "annotations": entries,
        "categories": [{"id": place, "name": title} for place, title in enumerate(CLASSES, 1)],
    }
    pictures = Files(tuple(map(Path, found.images)), size)
    return coco.split(table, {title: place for place, title in enumerate(CLASSES, 1)}, name, pictures)


def _entry(name: str, number: int, image: Any, each: dict[str, Any], tested: bool) -> dict[str, Any]:
    if each["name"] not in CLASSES:
        raise KDBenchError(f"dataset {name!r} has an object {each['name']!r} on {image!r}, which is no class of VOC")
    x0, y0, x1, y1 = (float(each["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
    box = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]  # its pixels are counted from 1, both ends included
    crowd = int(tested and each.get("difficult") == "1")
    return {
        "id": number, "image_id": image, "category_id": CLASSES.index(each["name"]) + 1, "bbox": box, "iscrowd": crowd
    }  # fmt: skip


def _root(path: str) -> Any:
    from xml.etree.ElementTree import ParseError, parse

    try:
        return parse(path).getroot()
    except (OSError, ParseError) as error:
        raise KDBenchError(f"annotation {str(path)!r} cannot be read ({error}): fetch it anew") from error

"""Detection sets: files as their libraries write them, boxes that are none, class numbers with gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.tasks.detection.data import coco, load
from kdbench.tasks.detection.data.loader import DetectionLoader
from kdbench.tasks.detection.data.scenes import scenes
from kdbench.tasks.detection.networks import create
from kdbench.tasks.detection.scoring import in_coco_format

FP32 = Numerics(torch.device("cpu"))
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "cow"}]
# x y width height, category: whole, no width, 0.4 px high, half outside, outside, at the right edge
ENTRIES = [
    (10, 10, 20, 30, 1), (5, 5, 0, 10, 1), (40, 20, 10, 0.4, 3), (-10, 40, 20, 20, 90), (200, 5, 9, 9, 1),
    (80, 0, 20, 50, 3),
]  # fmt: skip


def table(entries: list[tuple[float, ...]], empty: bool = True, **more: Any) -> dict[str, Any]:
    """A picture 100 px wide and 50 px high, and one without objects."""
    images = [{"id": 7, "width": 100, "height": 50, "file_name": "a.png"}]
    images += [{"id": 12, "width": 64, "height": 64, "file_name": "b.png"}] if empty else []
    rows = [
        {"id": k, "image_id": 7, "category_id": e[4], "bbox": list(e[:4]), "area": e[2] * e[3], "iscrowd": 0}
        for k, e in enumerate(entries, 1)
    ]
    return {"images": images, "annotations": rows, "categories": CATEGORIES, **more}


def pictures(of: dict[str, Any]) -> list[Image.Image]:
    draws = np.random.default_rng(0)
    return [
        Image.fromarray(draws.integers(256, size=(image["height"], image["width"], 3), dtype=np.uint8))
        for image in of["images"]
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        coco.write(tmp_path, part, table(ENTRIES), pictures(table(ENTRIES)))
    return tmp_path


def test_a_folder_with_cocos_annotations_is_read(folder: Path) -> None:
    data = load(f"folder:{folder}", image_size=64)
    assert data.classes == ("cat", "dog", "cow")
    assert data.categories == (1, 3, 90)
    assert data.train.names == (7, 12)
    assert data.train.sizes.tolist() == [[50, 100], [64, 64]]
    assert data.train.boxes[0].tolist() == [[10, 10, 30, 40], [40, 20, 50, 20.4], [0, 40, 10, 50], [80, 0, 100, 50]]
    assert data.train.labels[0].tolist() == [0, 1, 2, 1]
    assert data.train.dropped == 2  # no width, and outside
    assert data.train.boxes[1].shape == (0, 4)


def test_labels_go_back_to_the_files_numbers(folder: Path) -> None:
    data = load(f"folder:{folder}", image_size=64)
    back = in_coco_format(data.test, data.categories)["annotations"]
    assert [entry["category_id"] for entry in back] == [1, 3, 90, 3]
    assert back[0]["bbox"] == [10, 10, 20, 30]


def test_classes_meet_by_name_where_two_parts_number_them_otherwise(tmp_path: Path) -> None:
    coco.write(tmp_path, "train", table(ENTRIES), pictures(table(ENTRIES)))
    other = table([(1, 1, 9, 9, 5)], categories=[{"id": 5, "name": "cow"}, {"id": 6, "name": "cat"}])
    coco.write(tmp_path, "val", other, pictures(other))
    data = load(f"folder:{tmp_path}", image_size=64)
    assert data.classes[int(data.test.labels[0][0])] == "cow"


def test_pictures_are_resized_with_their_boxes_and_padded(folder: Path) -> None:
    data = load(f"folder:{folder}", image_size=64)
    batch = next(iter(DetectionLoader(data, 2, FP32, (), seed=0).batches()))
    assert batch.inputs.shape == (2, 3, 64, 64)
    assert batch.sizes.tolist() == [[32, 64], [64, 64]]
    torch.testing.assert_close(batch.boxes[0][0], torch.tensor([6.4, 6.4, 19.2, 25.6]))
    black = batch.inputs[0, :, 32:]
    assert torch.equal(black, black[:, :1, :1].expand_as(black))  # behind the picture's end
    assert batch.boxes[1].shape == (0, 4)
    assert batch.targets.tolist() == [0, 1, 2, 1]


def test_a_flipped_picture_takes_its_boxes_along(folder: Path) -> None:
    data = load(f"folder:{folder}", image_size=64)
    loader = DetectionLoader(data, 2, FP32, ("flip",), seed=0)
    plain = next(iter(loader.batches()))
    for epoch in range(20):
        for batch in loader.epoch(epoch):
            place = batch.indices.tolist().index(0)
            if not torch.equal(batch.inputs[place], plain.inputs[0]):
                assert torch.equal(batch.inputs[place], torch.cat([plain.inputs[0].flip(2)], 2))  # 64 px, its width
                x0, y0, x1, y1 = plain.boxes[0].unbind(1)
                torch.testing.assert_close(batch.boxes[place], torch.stack([64 - x1, y0, 64 - x0, y1], 1))
                return
    pytest.fail("none of twenty epochs flips the picture")


@pytest.mark.parametrize("form", ["fcos", "retinanet", "gfl"])
def test_boxes_that_hardly_are_any_reach_no_loss_as_nan(tmp_path: Path, form: str) -> None:
    """Resized and flipped, too; slivers are too thin for the numbers that networks compute with."""
    slivers = [(90.0, 10.0, 1e-7, 20.0, 1), (99.9999999, 0.0, 5.0, 9.0, 3), (10.0, 30.0, 20.0, 1e-6, 90)]
    for part in ("train", "val"):
        coco.write(tmp_path, part, table([*ENTRIES, *slivers]), pictures(table(ENTRIES)))
    data = load(f"folder:{tmp_path}", image_size=64)
    assert data.train.dropped == 5
    loader = DetectionLoader(data, 2, FP32, ("flip",), seed=0)
    network = create(f"{form}_test_resnet(levels=3, width=8)", num_classes=3, size=(3, 64, 64))
    for batch in (*loader.batches(), *(each for epoch in range(4) for each in loader.epoch(epoch))):
        for boxes, (height, width) in zip(batch.boxes, batch.sizes.tolist(), strict=True):
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height] * 2)).all()
        terms = network(batch.inputs).supervised(batch)
        assert all(term.isfinite() for term in terms.values())
    network.zero_grad()
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_what_is_scored_is_in_the_pictures_own_pixels_whatever_the_image_size(tmp_path: Path) -> None:
    known = table([(10.0, 10.0, 20.0, 30.0, 1)])
    known["annotations"][0]["area"] = 123.0  # of its outline, less than the box's 600
    for part in ("train", "val"):
        coco.write(tmp_path, part, known, pictures(known))
    for size in (32, 64, 128):
        test = load(f"folder:{tmp_path}", image_size=size).test
        assert test.areas[0].tolist() == [123.0]
        assert test.boxes[0].tolist() == [[10, 10, 30, 40]]
        assert len(test) == 2  # the one without objects, too


def test_an_epoch_is_decided_by_seed_and_number(folder: Path) -> None:
    data = load(f"folder:{folder}", image_size=64)
    one, two, other = (DetectionLoader(data, 2, FP32, ("flip",), seed=seed) for seed in (0, 0, 1))
    rows = [[next(iter(loader.epoch(k))).inputs for k in range(6)] for loader in (one, two, other)]
    assert all(torch.equal(a, b) for a, b in zip(rows[0], rows[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(rows[0], rows[2], strict=True))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"annotations": [{"id": 3, "image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "image_id 99, which"),
        ({"annotations": [{"id": 3, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "category_id 2, which"),
        (
            {"annotations": [{"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}]},
            "give x, y, width and height",
        ),
        ({"categories": []}, "give each a name and number of its own"),
        ({"annotations": []}, r"no training picture of dataset .* has an object"),
        ({"images": None}, "have no list 'images'"),
    ],
)
def test_wrong_annotations_are_one_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    for part in ("train", "val"):
        coco.write(tmp_path, part, table(ENTRIES), pictures(table(ENTRIES)))
    import json

    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps({**table(ENTRIES), **change}))
    with pytest.raises(KDBenchError, match=sentence):
        load(f"folder:{tmp_path}", image_size=64)


def test_what_is_absent_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "val" / "b.png").unlink()
    with pytest.raises(KDBenchError, match=r"b\.png' is named by the annotations and is not there"):
        load(f"folder:{folder}", image_size=64)
    with pytest.raises(KDBenchError, match=r"put annotations/instances_train2017\.json"):
        load("coco", tmp_path, image_size=64)
    with pytest.raises(KDBenchError, match="dataset 'voc2007' is not in the data folder"):
        load("voc2007", tmp_path, image_size=64)
    with pytest.raises(KDBenchError, match="did you mean 'voc2007'"):
        load("voc2006", tmp_path)
    with pytest.raises(KDBenchError, match="image_size is 50, but a detector's cells need a multiple of 32"):
        load(f"folder:{folder}", image_size=50)


def test_a_validation_part_is_cut_from_the_training_pictures(folder: Path) -> None:
    with pytest.raises(KDBenchError, match="unknown protocol of detection 'label_noise'"):
        load(f"folder:{folder}", image_size=64, protocol={"label_noise": {"rate": 0.1}})
    with pytest.raises(KDBenchError, match=r"validation.fraction is 0.1, which leaves"):
        load(f"folder:{folder}", image_size=64, protocol={"validation": {"fraction": 0.1}})


VOC = """<annotation><filename>{name}.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult><bndbox><xmin>31</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""


def test_voc_is_read_by_torchvision(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for name in ("000001", "000002"):
        Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name))
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n")
    (root / "ImageSets" / "Main" / "test.txt").write_text("000002\n")
    data = load("voc2007", tmp_path, image_size=32)
    assert [data.classes[label] for label in data.train.labels[0]] == ["dog", "cat"]
    assert data.train.boxes[0].tolist() == [[0, 10, 20, 30], [30, 0, 60, 40]]
    assert data.train.sizes.tolist() == [[40, 60]]
    assert data.train.crowds[0].tolist() == [False, False]
    assert data.test.crowds[0].tolist() == [False, True]  # difficult: neither found nor missed


def items() -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    images = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 4:24, 8:20] = 200
    return images, torch.arange(6) % 3, ("shirt", "shoe", "bag")


def test_scenes_are_seeded_one_by_one_and_their_boxes_are_tight() -> None:
    few, known = scenes(*items(), 5, "train")
    many, more = scenes(*items(), 8, "train")
    assert torch.equal(few, many[:5])
    assert known["annotations"] == [entry for entry in more["annotations"] if entry["image_id"] < 5]
    assert not torch.equal(few, scenes(*items(), 5, "test")[0])
    alone = next(k for k in range(8) if sum(e["image_id"] == k for e in more["annotations"]) == 1)
    x, y, width, height = next(e["bbox"] for e in more["annotations"] if e["image_id"] == alone)
    rows, columns = (many[alone, 0].amax(axis).nonzero().flatten() for axis in (1, 0))
    assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == [x, y, x + width, y + height]


def test_options_of_the_scenes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match="unknown option of dataset 'fashion_scenes' 'trains'"):
        load("fashion_scenes(trains=5)", tmp_path)
    with pytest.raises(KDBenchError, match="test=1: give a whole number of scenes, at least 2"):
        load("fashion_scenes(test=1)", tmp_path)
    with pytest.raises(KDBenchError, match="scenes of 96 px, and image_size is 64"):
        load("fashion_scenes", tmp_path, image_size=64)

"""Picture files of every kind: read as what they show, or named; what is no picture of a class is none."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.errors import KDBenchError
from kdbench.tasks.image.data import load_data
from kdbench.tasks.image.data.fashion_mnist import _read_idx, load
from kdbench.tasks.image.data.pictures import opened


def picture(path: Path, value: int = 9, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for label, name in enumerate(("c0", "c1")):
            for number in range(2):
                picture(tmp_path / split / name / f"{number}.png", 100 * label + number)
    return tmp_path


def classes(folder: Path) -> tuple[tuple[str, ...], list[int]]:
    data = load_data(f"folder:{folder}", image_size=8)
    return data.classes, torch.bincount(data.train_targets).tolist()


def test_what_programs_hide_and_what_lies_beside_the_classes_is_no_picture(folder: Path) -> None:
    picture(folder / "train" / "contact_sheet.png")
    picture(folder / "train" / ".ipynb_checkpoints" / "0.png")
    picture(folder / "train" / "c0" / ".ipynb_checkpoints" / "0-checkpoint.png")
    picture(folder / "train" / "c0" / "._0.png")
    assert classes(folder) == (("c0", "c1"), [2, 2])


@pytest.mark.parametrize("ending", ["webp", "bmp", "tif", "TIFF", "ppm", "JPEG"])
def test_pictures_of_all_usual_formats_are_found(folder: Path, ending: str) -> None:
    for split in ("train", "val"):
        picture(folder / split / "c2" / f"0.{ending}")
    assert classes(folder) == (("c0", "c1", "c2"), [2, 2, 1])


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_upper_half(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 300], [0x1234, 0xFFFF]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{ending}")
    assert np.asarray(opened(str(tmp_path / f"x.{ending}")))[..., 0].tolist() == [[0, 1], [0x12, 0xFF]]


def test_grey_without_a_range_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(KDBenchError, match=r"x\.tif' has 32 bits of grey, whose range nobody knows"):
        opened(str(tmp_path / "x.tif"))


def test_a_pipe_in_place_of_a_picture_is_named_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "train" / "c0" / "9.png")
    with pytest.raises(KDBenchError, match=r"9\.png' is no file: replace or remove it"):
        classes(folder)


def test_a_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = picture(tmp_path / "x.png")
    with pytest.raises(KDBenchError, match=r"x\.png' is too large to be one"):
        opened(str(path))


def test_a_picture_that_the_disk_does_not_give_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    path = picture(tmp_path / "x.png")
    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(KDBenchError, match=r"x\.png' cannot be read \(Input/output error\): see to its disk or rights"):
        opened(str(path))


# ------------------------------------------------------------------------------------------ IDX


def idx(path: Path, shape: tuple[int, ...], value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">I{len(shape)}I", 0x0800 | len(shape), *shape)
    path.write_bytes(head + bytes([value]) * int(np.prod(shape)))
    return path


def test_an_idx_file_of_other_dimensions_is_named(tmp_path: Path) -> None:
    path = idx(tmp_path / "train-images-idx3-ubyte", (4, 784))
    with pytest.raises(KDBenchError, match=r"idx3-ubyte' cannot be read \(it has 2 dimensions, not 3\)"):
        _read_idx(path, 3)


def test_a_label_that_is_no_class_is_named(tmp_path: Path) -> None:
    for part, label in (("train", 77), ("t10k", 1)):
        idx(tmp_path / f"{part}-images-idx3-ubyte", (2, 28, 28))
        idx(tmp_path / f"{part}-labels-idx1-ubyte", (2,), label)
    with pytest.raises(KDBenchError, match="train-labels-idx1-ubyte' has label 77 of 10 classes"):
        load(tmp_path)


@pytest.mark.parametrize("place", [11, 30, -6])
def test_a_damaged_gz_file_is_named_wherever_it_is_damaged(tmp_path: Path, place: int) -> None:
    content = bytearray(gzip.compress(idx(tmp_path / "x", (20,), 7).read_bytes() + os.urandom(99)))
    content[place] ^= 0xFF
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(KDBenchError, match=r"x\.gz' cannot be read"):
        _read_idx(tmp_path / "x.gz", 1)

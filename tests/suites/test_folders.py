"""A folder of images is what lies in it: other images make other cells, wherever the folder is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.sample_record import sample

from kdbench.board.select import current
from kdbench.errors import KDBenchError
from kdbench.suites import folders
from kdbench.suites.grid import Suite, identity
from kdbench.suites.parse import parse


def images(folder: Path, classes: int = 2) -> Path:
    for split in ("train", "val"):
        for label in range(classes):
            place = folder / split / f"c{label}"
            place.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8), (label * 50, number * 50, len(split))).save(place / f"{number}.png")
    return folder


def suite(folder: Path, dataset: str = "") -> Suite:
    return parse(
        {
            "methods": ["student", "kd"],
            "seeds": [0],
            "datasets": [dataset or f"folder:{folder}"],
            "recipe": {"epochs": 1},
            "pairs": [{"teacher": "cifar_resnet8", "student": "cifar_resnet8"}],
        }
    )


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_name("t"))
    other.rename(one)
    one.with_name("t").rename(other)


def test_a_copy_of_a_folder_is_the_same_data(tmp_path: Path) -> None:
    shutil.copytree(images(tmp_path / "a"), tmp_path / "b", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b/train/c0/0.png", (0, 0))
    (tmp_path / "b/train/.DS_Store").write_text("")
    (tmp_path / "b/val").rename(tmp_path / "b/test")
    (tmp_path / "b/README").write_text("about")
    assert folders.content(f"folder:{tmp_path / 'a'}") == folders.content(f"folder:{tmp_path / 'b'}")


@pytest.mark.parametrize("small", [True, False])
def test_moved_renamed_and_removed_images_are_other_data(
    small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "READ_BELOW", 10**9 if small else 0)
    folder = images(tmp_path / "a")
    seen = [folders.content(f"folder:{folder}")]
    (folder / "val/c0/0.png").rename(folder / "val/c1/moved.png")
    seen.append(folders.content(f"folder:{folder}"))
    (folder / "train/c1").rename(folder / "train/renamed")
    seen.append(folders.content(f"folder:{folder}"))
    (folder / "train/renamed/0.png").unlink()
    seen.append(folders.content(f"folder:{folder}"))
    assert len(set(seen)) == 4


def test_swapped_classes_are_other_cells_and_their_old_records_no_longer_count(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    before = suite(folder).cells()
    records = [sample(id=cell.id, cell=cell.config) for cell in before]
    swap(folder / "val/c0", folder / "val/c1")
    after = suite(folder).cells()
    assert not {cell.id for cell in before} & {cell.id for cell in after}
    assert len(current(records, before)) == 2
    assert current(records, after) == []


def test_a_teacher_of_other_images_is_another_teacher(tmp_path: Path) -> None:
    folder = images(tmp_path / "a")
    before, after = suite(folder).cells()[1], None
    first = before.training_of(before.pair.teacher).id
    swap(folder / "train/c0", folder / "train/c1")
    after = suite(folder).cells()[1]
    assert after.training_of(after.pair.teacher).id != first


def test_other_data_sets_are_what_their_name_says(tmp_path: Path) -> None:
    config = suite(tmp_path, "digits").cells()[0].config
    assert "data" not in config
    assert folders.content("imagenet") is None


def test_an_absent_folder_is_a_remark_and_no_error(tmp_path: Path) -> None:
    absent = suite(tmp_path / "nowhere")
    assert absent.cells()[0].config["data"] == folders.ABSENT
    name = f"folder:{tmp_path / 'nowhere'}"
    assert absent.absent_data() == [f"dataset {name!r} is not here: records of it cannot be told from others"]
    assert suite(images(tmp_path / "a")).absent_data() == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images(tmp_path / "a")

    def refuse(path: str, *_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(
        KDBenchError, match=r"cannot be read \(Permission denied: '.*0\.png'\): make its files readable"
    ):
        folders.content(f"folder:{folder}")


def test_what_a_digest_cannot_follow_stands_in_the_cell_and_not_in_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.suites.grid.untracked", lambda cls: ["exec in mine"] if cls.__name__ == "KD" else [])
    student, kd = suite(tmp_path, "digits").cells()
    assert kd.config["method"]["source_not_tracked"] == ["exec in mine"]
    assert "source_not_tracked" not in student.config["method"]
    monkeypatch.undo()
    assert kd.id == suite(tmp_path, "digits").cells()[1].id == identity(kd.config)


def test_a_sentence_names_the_method_and_the_source_that_is_not_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.suites.grid.untracked", lambda cls: ["exec in mine"] if cls.__name__ == "KD" else [])
    assert suite(tmp_path, "digits").hidden_source() == ["method kd: source not tracked: exec in mine"]

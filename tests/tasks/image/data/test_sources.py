"""Data sets are read from the formats in which they are published; absent and damaged ones give one clear sentence."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from kdbench.errors import KDBenchError
from kdbench.tasks.image.data import ImageData, StreamedData, data_root, fashion_mnist, load, load_data


def write_image(path: Path, colour: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


# ------------------------------------------------------------------------------------------------------------ digits


def test_digits_has_all_1797_real_images_and_ten_balanced_classes():
    data = load("digits")
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    for targets, share in ((data.train_targets, 0.8), (data.test_targets, 0.2)):
        assert torch.bincount(targets).tolist() == pytest.approx([share * 179.7] * 10, abs=6)


def test_digits_keeps_every_grey_value_of_the_source():
    data = load("digits")
    ours = torch.cat([data.train_images, data.test_images]).flatten(1).double() * 16 / 255
    theirs = load_digits().data
    assert sorted(map(tuple, ours.round().long().tolist())) == sorted(map(tuple, theirs.astype(int).tolist()))


def test_digits_is_split_alike_each_time():
    assert torch.equal(load("digits").test_images, load("digits").test_images)


def test_mean_and_std_are_those_of_the_training_images():
    data = load("digits")
    pixels = data.train_images.double() / 255
    assert data.mean[0] == pytest.approx(pixels.mean().item(), abs=1e-6)
    assert data.std[0] == pytest.approx(pixels.std(correction=0).item(), abs=1e-6)


def test_digits_can_be_enlarged():
    assert load("digits", image_size=32).train_images.shape == (1437, 1, 32, 32)


def test_a_large_size_is_left_to_the_loader():
    data = load("digits", image_size=224)
    assert (data.train_images.shape[-1], data.image_size) == (8, 224)


# ----------------------------------------------------------------------------------------------------- fashion_mnist


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def fashion_files(monkeypatch, tmp_path) -> dict[str, bytes]:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-such-package")
    random = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 40), ("t10k", 20)):
        files[f"{part}-images-idx3-ubyte"] = idx(random.integers(0, 256, (count, 28, 28), np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


def write_torchvision(root: Path, files: dict[str, bytes]) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)


def test_fashion_mnist_reads_what_torchvision_reads(tmp_path, fashion_files):
    write_torchvision(tmp_path, fashion_files)
    data = load("fashion_mnist", tmp_path, image_size=28)
    theirs = FashionMNIST(str(tmp_path), train=True)
    assert torch.equal(data.train_images.squeeze(1), theirs.data)
    assert torch.equal(data.train_targets, theirs.targets)
    assert data.classes[9] == "Ankle boot"


def test_fashion_mnist_is_padded_to_32_with_black(tmp_path, fashion_files):
    write_torchvision(tmp_path, fashion_files)
    images = load("fashion_mnist", tmp_path).test_images
    assert images.shape == (20, 1, 32, 32)
    assert torch.equal(images[:, :, 2:-2, 2:-2], load("fashion_mnist", tmp_path, image_size=28).test_images)
    assert images[:, :, :2].max() == images[:, :, :, -2:].max() == 0


def test_fashion_mnist_reads_the_debian_package(tmp_path, fashion_files, monkeypatch):
    package = tmp_path / "usr-share"
    package.mkdir()
    for name, content in fashion_files.items():
        (package / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", package)
    write_torchvision(tmp_path / "other", fashion_files)
    from_package, from_folder = load("fashion_mnist", tmp_path), load("fashion_mnist", tmp_path / "other")
    assert torch.equal(from_package.train_images, from_folder.train_images)
    assert torch.equal(from_package.test_targets, from_folder.test_targets)


def test_an_absent_fashion_mnist_names_files_folder_and_package(tmp_path, fashion_files):
    with pytest.raises(KDBenchError) as error:
        load("fashion_mnist", tmp_path)
    for part in (str(tmp_path), "train-images-idx3-ubyte", "FashionMNIST/raw", "dataset-fashion-mnist", "--data"):
        assert part in str(error.value)


def test_a_failed_download_says_why_and_what_to_do(tmp_path, fashion_files, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "download", lambda self: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(KDBenchError, match=r"its download failed \(no route to host\): put the files train-images"):
        load("fashion_mnist", tmp_path, download=True)


def test_nothing_is_downloaded_unasked(tmp_path, fashion_files, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "download", lambda self: pytest.fail("tried to download"))
    with pytest.raises(KDBenchError, match="is not in the data folder"):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"\0" * len(b), lambda b: b[:3]])
def test_a_damaged_idx_file_is_named(tmp_path, fashion_files, damage):
    fashion_files["t10k-labels-idx1-ubyte"] = damage(fashion_files["t10k-labels-idx1-ubyte"])
    write_torchvision(tmp_path, fashion_files)
    with pytest.raises(KDBenchError, match=r"t10k-labels-idx1-ubyte' cannot be read .*: fetch it anew"):
        load("fashion_mnist", tmp_path)


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_has_60000_and_10000_balanced_images(tmp_path):
    data = load("fashion_mnist", tmp_path)
    assert torch.bincount(data.train_targets).tolist() == [6000] * 10
    assert torch.bincount(data.test_targets).tolist() == [1000] * 10
    inner = data.train_images[:, :, 2:-2, 2:-2].double() / 255
    assert inner.mean().item() == pytest.approx(0.2860, abs=1e-4)  # the field's published statistics
    assert inner.std().item() == pytest.approx(0.3530, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------- CIFAR


def write_cifar(root: Path, loader: type[CIFAR10], key: str, classes: int, monkeypatch) -> dict[str, np.ndarray]:
    """Small files in CIFAR's own format, with torchvision's MD5 sums replaced by theirs."""
    folder = root / loader.base_folder
    folder.mkdir(parents=True)
    random, pixels, sums = np.random.default_rng(0), {}, {}

    def write(name: str, content: dict) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    for name, _ in [*loader.train_list, *loader.test_list]:
        pixels[name] = random.integers(0, 256, (6, 3072), np.uint8)
        write(name, {"data": pixels[name], key: [i % classes for i in range(6)]})
    write(loader.meta["filename"], {loader.meta["key"]: [f"class {i}" for i in range(classes)]})
    monkeypatch.setattr(loader, "train_list", [[name, sums[name]] for name, _ in loader.train_list])
    monkeypatch.setattr(loader, "test_list", [[name, sums[name]] for name, _ in loader.test_list])
    monkeypatch.setattr(loader, "meta", {**loader.meta, "md5": sums[loader.meta["filename"]]})
    return pixels


def test_cifar10_reads_the_five_batches_in_order(tmp_path, monkeypatch):
    pixels = write_cifar(tmp_path, CIFAR10, "labels", 10, monkeypatch)
    data = load("cifar10", tmp_path)
    assert data.train_images.shape == (30, 3, 32, 32)
    assert torch.equal(data.train_images[6:12].flatten(1), torch.from_numpy(pixels["data_batch_2"]))
    assert data.train_targets.tolist() == [0, 1, 2, 3, 4, 5] * 5
    assert data.num_classes == len(data.classes) == 10


def test_cifar100_reads_the_fine_labels(tmp_path, monkeypatch):
    pixels = write_cifar(tmp_path, CIFAR100, "fine_labels", 100, monkeypatch)
    data = load("cifar100", tmp_path)
    assert torch.equal(data.test_images.flatten(1), torch.from_numpy(pixels["test"]))
    assert data.num_classes == 100
    assert data.mean == (0.5071, 0.4867, 0.4408)


def test_an_altered_cifar_file_is_never_unpickled(tmp_path, monkeypatch):
    write_cifar(tmp_path, CIFAR100, "fine_labels", 100, monkeypatch)
    marker = tmp_path / "executed"

    class Malice:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (tmp_path / CIFAR100.base_folder / "train").write_bytes(pickle.dumps(Malice()))
    with pytest.raises(KDBenchError, match=r"train' is not the published one .* so it is not opened"):
        load("cifar100", tmp_path)
    assert not marker.exists()


def test_an_absent_cifar_names_folder_and_archive(tmp_path):
    with pytest.raises(KDBenchError, match=r"put the folder cifar-100-python of cifar-100-python\.tar\.gz"):
        load("cifar100", tmp_path)


def test_a_published_archive_in_the_data_folder_is_unpacked(tmp_path, monkeypatch):
    write_cifar(tmp_path / "source", CIFAR10, "labels", 10, monkeypatch)
    archive = tmp_path / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source" / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load("cifar10", tmp_path).test_targets) == 6


# ------------------------------------------------------------------------------------- Tiny-ImageNet, folders, timm


@pytest.fixture
def tiny(tmp_path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    rows = []
    for c, wnid in enumerate(("n03444034", "n01443537")):
        for i in range(3):
            path = root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG"
            write_image(path, (100 * c, 50, 10 * i), (64, 64))
        write_image(root / "val" / "images" / f"val_{c}.JPEG", (100 * c, 50, 0), (64, 64))
        rows.append(f"val_{c}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("n03444034\nn01443537\n")
    return tmp_path


def test_tiny_imagenet_takes_labels_from_folders_and_annotations(tiny):
    data = load("tiny_imagenet", tiny)
    assert data.classes == ("n01443537", "n03444034")
    assert data.train_targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_targets.tolist() == [1, 0]


def test_tiny_imagenet_fits_into_memory_at_64_px(tiny):
    data = load_data("tiny_imagenet", root=tiny)
    assert isinstance(data, ImageData)
    assert data.train_images.shape == (6, 3, 64, 64)
    assert data.train_images[0, :, 32, 32].tolist() == pytest.approx([100, 50, 0], abs=4)  # JPEG
    assert data.train_images[5, :, 32, 32].tolist() == pytest.approx([0, 50, 20], abs=4)


def test_an_absent_tiny_imagenet_names_its_folder(tmp_path):
    with pytest.raises(KDBenchError, match=r"put the folder tiny-imagenet-200 of tiny-imagenet-200\.zip"):
        load("tiny_imagenet", tmp_path)


@pytest.fixture
def folder(tmp_path) -> Path:
    for c, name in enumerate(("cat", "dog", "emu")):
        for i in range(4):
            write_image(tmp_path / "pets" / "train" / name / f"{i}.png", (80 * c, 0, 10 * i))
    for name in ("dog", "emu"):  # a test set may lack a class without renumbering the others
        write_image(tmp_path / "pets" / "test" / name / "0.png")
    return tmp_path / "pets"


def test_an_image_folder_numbers_its_classes_by_the_training_folders(folder):
    data = load(f"folder:{folder}", image_size=16)
    assert data.classes == ("cat", "dog", "emu")
    assert data.train_targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test_targets.tolist() == [1, 2]


def test_an_image_folder_is_kept_in_memory_up_to_the_limit(folder):
    size = (12 + 2) * 3 * 16 * 16
    assert isinstance(load_data(f"folder:{folder}", image_size=16, memory_limit=size), ImageData)
    assert isinstance(load_data(f"folder:{folder}", image_size=16, memory_limit=size - 1), StreamedData)


def test_imagenet_is_streamed_whatever_its_size(folder, tmp_path):
    folder.rename(tmp_path / "imagenet")
    assert isinstance(load_data("imagenet", root=tmp_path, image_size=16), StreamedData)


def test_a_test_class_without_training_images_is_refused(folder):
    write_image(folder / "test" / "yak" / "0.png")
    with pytest.raises(KDBenchError, match="test images of class 'yak' but no training images"):
        load(f"folder:{folder}")


def test_a_folder_without_splits_says_what_it_should_hold(tmp_path):
    with pytest.raises(KDBenchError, match=r"put a folder train and a folder val \(or test\)"):
        load(f"folder:{tmp_path}")


def test_a_damaged_image_is_named(folder):
    (folder / "train" / "cat" / "2.png").write_bytes(b"no image")
    with pytest.raises(KDBenchError, match=r"cat/2\.png' cannot be read"):
        load_data(f"folder:{folder}", image_size=16)


def test_a_set_of_timm_is_streamed_with_its_labels(tmp_path, monkeypatch):
    pixels = write_cifar(tmp_path, CIFAR10, "labels", 10, monkeypatch)
    data = load_data("timm:torch/cifar10", root=tmp_path, image_size=32)
    assert isinstance(data, StreamedData)
    assert data.test_targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.classes[1] == "class 1"
    image = np.asarray(data.test[2]).transpose(2, 0, 1)
    assert np.array_equal(image.flatten(), pixels["test_batch"][2])


def test_a_torchvision_set_that_timm_does_not_know_is_read_as_well(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    for name in ("Abyssinian_1", "Abyssinian_2", "beagle_1"):
        write_image(base / "images" / f"{name}.jpg")
    (base / "annotations").mkdir()
    (base / "annotations" / "trainval.txt").write_text("Abyssinian_1 1 1 1\nbeagle_1 2 2 1\n")
    (base / "annotations" / "test.txt").write_text("Abyssinian_2 1 1 1\n")
    data = load("timm:torch/oxford_iiit_pet", tmp_path)
    assert (data.train_targets.tolist(), data.test_targets.tolist()) == ([0, 1], [0])
    assert data.classes == ("Abyssinian", "Beagle")
    assert data.train[1].size == (20, 16)


def test_an_absent_set_of_timm_says_where_its_files_go(tmp_path):
    with pytest.raises(KDBenchError, match=r"'timm:torch/flowers102' is not in the data folder .* as torchvision lays"):
        load("timm:torch/flowers102", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar101", "unknown dataset 'cifar101': did you mean 'cifar10"),
        ("timm:torch/flowers", "unknown timm dataset 'torch/flowers': did you mean 'torch/flowers102'"),
        ("timm:tfds/cifar10", "is read in sequence"),
        ("folder:", "unknown dataset 'folder:'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name, message):
    with pytest.raises(KDBenchError, match=message):
        load(name)


@pytest.mark.parametrize("size", [0, -1, 3.5, True])
def test_a_senseless_image_size_is_refused(size):
    with pytest.raises(KDBenchError, match="must be a positive whole number of pixels"):
        load("digits", image_size=size)


def test_the_data_folder_is_the_argument_then_the_variable_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    assert data_root("elsewhere") == Path("elsewhere")
    assert data_root() == tmp_path
    monkeypatch.delenv("KDBENCH_DATA")
    assert data_root() == Path.home() / ".cache" / "kdbench" / "data"


def test_the_content_of_a_set_tells_one_pixel_and_one_label(tmp_path: Path) -> None:
    data = load("digits")
    brighter, relabelled = data.train_images.clone(), data.test_targets.clone()
    brighter[5, 0, 3, 3] += 1
    relabelled[7] = (relabelled[7] + 1) % 10
    changed = [data, replace(data, train_images=brighter), replace(data, test_targets=relabelled)]
    assert len({found.content for found in changed}) == 3
    assert data.content == load("digits").content

"""`kdbench run --keep-students` and `kdbench use` with images: what a cell deploys is kept, found, and answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from sklearn.datasets import load_digits
from support.outcomes import without_times
from typer.testing import CliRunner

from kdbench import tasks
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.suites.grid import Cell
from kdbench.suites.parse import load
from kdbench.tasks.image.data.given import of_files
from kdbench.tasks.image.data.sets import ImageData
from kdbench.training.students import Students
from kdbench.training.weights import save_trained

SUITE = """
name = "kept"
seeds = [0]
methods = ["student", "simkd", { name = "one", deployment = "ensemble" }, "dml", "fsp"]

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 8 } }

[recipe]
epochs = 1
batch_size = 32
precision = "fp32"

[[pairs]]
teacher = "cifar_resnet14"
student = "cifar_resnet8"

[[pairs]]
teacher = "cifar_resnet14"
student = "cifar_resnet8(width_factor=0.5)"
methods = ["student"]
"""
WIDE = "cifar_resnet14 -> cifar_resnet8"
CPU = Numerics(torch.device("cpu"))


def called(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def refused(folder: Path, *words: str) -> str:
    """The sentence for an input that is refused."""
    with pytest.raises(KDBenchError) as error:
        CliRunner().invoke(
            app, ["use", str(folder / "kept.toml"), *words, "--out", str(folder)], catch_exceptions=False
        )
    return str(error.value)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose students were kept, and whose teachers are gone; with the suite and a picture."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "kept.toml").write_text(SUITE)
    pixels = np.rint(load_digits().images[0] * 255 / 16).astype(np.uint8)
    Image.fromarray(pixels).resize((24, 24)).save(folder / "zero.png")
    ran = called("run", folder / "kept.toml", "--keep-students", "--out", folder, "--device", "cpu")
    assert ran.exit_code == 0, ran.output
    assert "no kept student" not in ran.output
    (folder / "teachers").rename(folder / "gone")
    return folder


def cells(folder: Path) -> dict[tuple[str, str], Cell]:
    return {(cell.method.name, str(cell.pair)): cell for cell in load(str(folder / "kept.toml")).cells()}


@pytest.mark.parametrize("method", ["student", "simkd", "one", "dml"])
def test_a_kept_student_scores_what_its_record_says_and_needs_no_teacher(kept: Path, method: str) -> None:
    store, cell = Store(kept / "kept"), cells(kept)[method, WIDE]
    task = tasks.create(cell.dataset, cell.recipe, CPU, None)
    model = Students(store, print).load(cell, task, CPU)
    result: Any = store.read(cell.id)["result"]
    scores = task.scores(task.evaluate(model))
    assert {name: scores[name] for name in ("top1", "ece")} == {name: result[name] for name in ("top1", "ece")}
    assert type(model).__name__ == {"simkd": "Deployed", "one": "Gated"}.get(method, type(model).__name__)


def test_a_method_is_named_as_tables_call_it_or_by_its_name_alone(kept: Path) -> None:
    said = [
        called("use", kept / "kept.toml", name, kept / "zero.png", "--out", kept, "--device", "cpu").output
        for name in ("one", "one(deployment=ensemble)")
    ]
    assert said[0] == said[1]
    assert "zero.png: " in said[0]


def test_use_names_the_three_likeliest_classes_of_each_picture(kept: Path) -> None:
    picture = str(kept / "zero.png")
    ran = called("use", kept / "kept.toml", "simkd", picture, picture, "--out", kept, "--device", "cpu")
    assert ran.exit_code == 0, ran.output
    lines = ran.output.splitlines()
    assert lines[0] == lines[1]
    name, _, classes = lines[0].rpartition(": ")
    assert name == picture
    shares = [float(each.split()[1]) for each in classes.split(", ")]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.1


def test_only_the_digest_of_what_was_kept_tells_the_records_apart(kept: Path, tmp_path: Path) -> None:
    plain = ("--methods", "student", "--pairs", "0.5")
    ran = called("run", kept / "kept.toml", *plain, "--out", tmp_path, "--device", "cpu")
    assert ran.exit_code == 0, ran.output
    assert not (tmp_path / "kept" / "students").exists()
    cell = cells(kept)["student", "cifar_resnet14 -> cifar_resnet8(width_factor=0.5)"]
    with_it, without = (dict(Store(out / "kept").read(cell.id)) for out in (kept, tmp_path))
    assert "weights_sha256" not in without
    assert len(with_it.pop("weights_sha256")) == 64
    assert without_times(with_it) == without_times(without)


def test_a_cell_that_finished_without_it_says_how_to_get_its_student(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "out")
    store, cell = Store(tmp_path / "out" / "kept"), cells(kept)["simkd", WIDE]
    store.student(cell.id).unlink()
    said = refused(tmp_path / "out", "simkd", str(kept / "zero.png"))
    assert f"was not kept: delete '{store.path(cell.id)}' and run `kdbench run " in said
    assert "--keep-students`" in said
    ran = called("run", kept / "kept.toml", "--keep-students", "--out", tmp_path / "out", "--device", "cpu")
    told = " ".join(ran.output.split())
    assert f"1 finished cell has no kept student: delete its record {cell.id}.json" in told


def test_weights_of_another_training_are_refused(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "out")
    store, cell, picture = Store(tmp_path / "out" / "kept"), cells(kept)["simkd", WIDE], str(kept / "zero.png")
    file = store.student(cell.id)
    shutil.copyfile(store.student(cells(kept)["dml", WIDE].id), file)
    assert "it is of the training" in refused(tmp_path / "out", "simkd", picture)
    file.write_bytes(b"no weights")
    assert "it cannot be read as weights" in refused(tmp_path / "out", "simkd", picture)
    digest = save_trained(file, cell.id, {"x": torch.zeros(1)}, alone=False)
    record = json.loads(store.path(cell.id).read_text())
    store.path(cell.id).write_text(json.dumps({**record, "weights_sha256": digest}))
    assert "does not fit into 'cifar_resnet8'" in refused(tmp_path / "out", "simkd", picture)


def test_what_cannot_be_used_is_one_sentence(kept: Path) -> None:
    picture = str(kept / "zero.png")
    assert "no cell of method 'simkd (tuned)'" in refused(kept, "simkd (tuned)", picture)
    assert "has no record in" in refused(kept, "kd", picture, "--pair", WIDE)
    assert "has no record in" in refused(kept, "simkd", picture, "--seed", "7", "--pair", "cifar_resnet8")
    assert "did you mean 'simkd'" in refused(kept, "simkdd", picture)
    assert "which pair is meant?" in refused(kept, "student", picture, "--pair", "cifar")
    assert "unknown data set 'mnist'" in refused(kept, "simkd", picture, "--dataset", "mnist")
    assert "its cell is not applicable" in refused(kept, "fsp", picture)
    assert "absent.png' cannot be read" in refused(kept, "simkd", str(kept / "absent.png"))
    assert "kept.toml' cannot be read" in refused(kept, "simkd", str(kept / "kept.toml"))
    assert "is empty" in refused(kept, "simkd", "")


def test_a_picture_is_seen_as_the_sets_own_are(tmp_path: Path) -> None:
    blank, none = torch.zeros(2, 1, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    data = ImageData("rimmed", blank, none, blank, none, 2, ("a", "b"), (0.5,), (0.5,), rim=2)
    white = Image.new("RGB", (56, 28), "white")
    white.save(tmp_path / "wide.png")
    white.resize((32, 32)).save(tmp_path / "whole.png")
    given = of_files(data, [str(tmp_path / "wide.png"), str(tmp_path / "whole.png")])
    assert isinstance(given, ImageData)
    assert (given.test_images[1] == 255).all()
    inner = given.test_images[0, 0, 2:-2, 2:-2]
    assert (inner == 255).all()
    assert given.test_images[0].sum() == inner.sum()

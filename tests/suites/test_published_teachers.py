"""`--teacher NETWORK=FILE`: a checkpoint in place of a teacher that would be trained."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.papers.table import Choice, protocol
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.published_teachers import with_teachers
from kdbench.tasks.image.networks import create

WIDE = "cifar_resnet14(width_factor=0.5)"
SUITE = f"""
datasets = ["digits"]
methods = ["student", "kd"]
seeds = [0]
[recipe]
epochs = 1
[[pairs]]
teacher = "{WIDE}"
pool = ["{WIDE}", "{WIDE}@1"]
student = "cifar_resnet8(width_factor=0.25)"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint as RepDistiller names its tensors."""
    own = create(WIDE, num_classes=10, in_chans=1, input_size=(1, 8, 8)).core.state_dict()
    theirs = {f"t{n}.{key.rpartition('.')[2]}": own[key] for n, key in enumerate(own)}
    torch.save({"model": theirs}, tmp_path / "ckpt_240.pth")
    return tmp_path / "ckpt_240.pth"


def suite(tmp_path: Path) -> Any:
    (tmp_path / "mine.toml").write_text(SUITE)
    return parse.load(str(tmp_path / "mine.toml"))


def test_the_files_sha256_is_part_of_the_cell_and_its_place_is_not(tmp_path: Path, file: Path) -> None:
    mine = suite(tmp_path)
    pair = with_teachers(mine, [f"{WIDE}={file}"]).pairs[0]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert pair.teacher == pair.pool[0]
    assert (pair.teacher.weights, pair.teacher.sha256) == (str(file), digest)
    assert pair.pool[1].weights == "train"
    moved = Path(shutil.copy(file, tmp_path / "elsewhere.pth"))
    ids = [with_teachers(mine, [f"{WIDE}={where}"]).cells()[1].id for where in (file, moved)]
    assert ids[0] == ids[1] != mine.cells()[1].id
    with file.open("ab") as other:
        other.write(b" ")
    assert with_teachers(mine, [f"{WIDE}={file}"]).cells()[1].id != ids[0]


def test_one_of_a_pool_is_named_by_its_seed(tmp_path: Path, file: Path) -> None:
    pair = with_teachers(suite(tmp_path), [f"{WIDE}@1={file}"]).pairs[0]
    assert [spec.weights for spec in (pair.teacher, *pair.pool)] == ["train", "train", str(file)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("cifar_resnet14=FILE", r"unknown teacher 'cifar_resnet14': did you mean"),
        (WIDE, "is not of the form NETWORK=FILE"),
        ("=FILE", "is not of the form NETWORK=FILE"),
        (f"{WIDE}@one=FILE", "is not of the form network@seed"),
        (f"{WIDE}=nowhere.pth", "there is no file 'nowhere.pth'"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, file: Path, entry: str, said: str) -> None:
    with pytest.raises(KDBenchError, match=said):
        with_teachers(suite(tmp_path), [entry.replace("FILE", str(file))])


def test_it_teaches_and_its_score_is_shown(tmp_path: Path, file: Path) -> None:
    mine, out = suite(tmp_path), tmp_path / "runs"
    chosen = ["--teacher", f"{WIDE}={file}", "--out", str(out)]
    toml = str(tmp_path / "mine.toml")
    planned = CliRunner().invoke(app, ["run", toml, *chosen, "--dry-run"])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"teacher from a file: {WIDE}@0: {file}, sha256 {digest}" in planned.output
    ran = CliRunner().invoke(app, ["run", toml, *chosen])
    assert ran.exit_code == 0, ran.output
    said = f"teacher {WIDE}@0 of '{file}', layout: RepDistiller's and mdistiller's, by order and shape; top-1 "
    assert said in " ".join(ran.output.split())
    cell = with_teachers(mine, [f"{WIDE}={file}"]).cells()[1]
    (teacher,) = Store(out / "mine").read(cell.id)["teachers"]
    assert teacher["weights"] == digest
    assert teacher["layout"].startswith("RepDistiller's")
    assert not list((out / "teachers" / "records").glob("*")), "a teacher was trained"


def test_a_papers_table_takes_them(file: Path) -> None:
    row = next(entry for entry in protocol("kd").entries if entry.cells)
    network = row.cells[0].pair.teacher.network
    entries = protocol("kd", Choice(teachers=[f"{network}={file}"])).entries
    mine = [cell.pair.teacher for entry in entries for cell in entry.cells]
    assert {spec.weights for spec in mine if spec.network == network} == {str(file)}
    with pytest.raises(KDBenchError, match="unknown teacher 'cifar_resnet14'"):
        protocol("kd", Choice(teachers=[f"cifar_resnet14={file}"]))

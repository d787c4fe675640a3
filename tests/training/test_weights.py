"""Teachers' weights: what a student learned from is what its teacher's training left, or it is trained again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.records import Store
from kdbench.suites.grid import Cell, TeacherSpec
from kdbench.suites.parse import parse
from kdbench.testing import trial
from kdbench.training import learner
from kdbench.training.teachers import Teachers
from kdbench.training.weights import digest_of, fault_of_trained, read_weights, save_trained

WEIGHTS = {"a": torch.arange(4.0).reshape(2, 2), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.bfloat16)}
SUITE = {
    "seeds": [0],
    "methods": ["student", "kd"],
    "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 4}}}],
    "recipe": {"epochs": 1, "batch_size": 32},
    "pairs": [{"teacher": "cifar_resnet8", "student": "cifar_resnet8"}],
}


def test_a_digest_is_of_what_tensors_hold_and_not_of_how_they_lie() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert digest_of({"x": images}) == digest_of({"x": images.contiguous(memory_format=torch.channels_last)})
    assert digest_of(dict(reversed(WEIGHTS.items()))) == digest_of(WEIGHTS)


@pytest.mark.parametrize(
    "other",
    [{"b": WEIGHTS["a"]}, {"a": WEIGHTS["a"].double()}, {"a": WEIGHTS["a"].flatten()}, {"a": WEIGHTS["a"] + 1e-6}],
    ids=["name", "type", "shape", "value"],
)
def test_another_name_type_shape_or_value_is_another_digest(other: dict[str, torch.Tensor]) -> None:
    assert digest_of(other) != digest_of({"a": WEIGHTS["a"]})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_trained(tmp_path / "abc.safetensors", "abc", WEIGHTS)
    return tmp_path / "abc.safetensors"


def test_saved_weights_are_sound_and_named_by_their_digest(file: Path) -> None:
    digest = digest_of(safetensors.torch.load_file(file))
    assert digest == digest_of(WEIGHTS)
    assert fault_of_trained(file, "abc", {"weights_sha256": digest}) == ""
    assert fault_of_trained(file, "abc", {}) == ""


def test_weights_of_an_older_kdbench_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(WEIGHTS, tmp_path / "abc.safetensors")
    assert fault_of_trained(tmp_path / "abc.safetensors", "abc", {}) == ""


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read as weights"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read as weights"),
        (lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]), "cannot be read as weights"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x3e"), "not what its training left"),
        (lambda path: save_trained(path, "xyz", WEIGHTS), "it is of the training xyz"),
        (folder, "it is no file"),
    ],
    ids=["empty", "cut", "huge head", "a bit", "another's", "folder"],
)
def test_what_is_wrong_with_weights_is_said(file: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(file)
    assert said in fault_of_trained(file, "abc", {})


def test_weights_of_another_training_under_the_same_name_do_not_fit_the_record(file: Path) -> None:
    digest = save_trained(file, "abc", {**WEIGHTS, "n": torch.tensor(4)})
    assert fault_of_trained(file, "abc", {"weights_sha256": digest}) == ""
    assert "not what its training left" in fault_of_trained(file, "abc", {"weights_sha256": digest_of(WEIGHTS)})


def test_weights_that_may_not_be_read_are_not_called_damaged(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for read in (lambda: fault_of_trained(file, "abc", {}), lambda: read_weights(file)):
        with pytest.raises(KDBenchError, match=r"cannot be read \(Permission denied\): change its permissions") as said:
            read()
        assert "delete" not in str(said.value)


@pytest.mark.parametrize("sparse", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:.*parse")
def test_a_sparse_tensor_is_named(tmp_path: Path, sparse: str) -> None:
    torch.save({"head.weight": getattr(torch.eye(2), sparse)()}, tmp_path / "teacher.pt")
    with pytest.raises(KDBenchError, match=r"teacher\.pt' has a sparse or quantized tensor 'head\.weight'"):
        read_weights(tmp_path / "teacher.pt")


# ------------------------------------------------------------------------------------------ in a run


class Listening(trial._Silent):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def notice(self, sentence: str) -> None:
        self.said.append(sentence)


def cells() -> list[Cell]:
    return parse(SUITE).cells()


def run(out: Path) -> list[str]:
    listener = Listening()
    LocalExecutor(out, listener, device="cpu").run(cells())
    return listener.said


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "latencies", lambda *_: {})
        run(out)
    return out


@pytest.fixture
def out(finished_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of which kd's record is lost, so that the teacher is needed again."""
    monkeypatch.setattr(learner, "latencies", lambda *_: {})
    shutil.copytree(finished_once, tmp_path / "out")
    (tmp_path / "out" / "suite" / "records" / f"{cells()[1].id}.json").unlink()
    return tmp_path / "out"


def kd(out: Path) -> dict[str, Any]:
    return Store(out / "suite").read(cells()[1].id)


def weights_of(out: Path) -> Path:
    (path,) = (out / "teachers" / "weights").glob("*.safetensors")
    return path


def test_records_say_which_weights_a_teacher_has_and_a_student_learned_from(finished_once: Path) -> None:
    digest = digest_of(read_weights(weights_of(finished_once)))
    teacher = Store(finished_once / "teachers").read(weights_of(finished_once).stem)
    assert teacher["weights_sha256"] == digest
    for cell in cells():
        assert [t["sha256"] for t in Store(finished_once / "suite").read(cell.id)["teachers"]] == [digest]


@pytest.mark.parametrize("damage", ["a bit", "half"])
def test_a_teacher_whose_weights_changed_trains_again_and_the_student_learns_from_the_right_ones(
    out: Path, finished_once: Path, damage: str
) -> None:
    path = weights_of(out)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-2] ^= 64
    path.write_bytes(flipped if damage == "a bit" else whole[: len(whole) // 2])
    (said,) = run(out)
    assert f"it is now '{path.name}.damaged'" in said.replace("they are now", "it is now")
    assert path.read_bytes() == whole
    assert kd(out)["result"] == kd(finished_once)["result"]
    assert run(out) == []


def test_sound_weights_are_used_and_nothing_is_said(out: Path, finished_once: Path) -> None:
    record = next((out / "teachers" / "records").iterdir())
    before = record.read_bytes()
    assert run(out) == []
    assert record.read_bytes() == before
    assert kd(out)["teachers"] == kd(finished_once)["teachers"]


def test_the_record_of_a_teacher_of_an_older_kdbench_is_still_good(out: Path, finished_once: Path) -> None:
    path = next((out / "teachers" / "records").iterdir())
    record = json.loads(path.read_text())
    del record["weights_sha256"]
    path.write_text(json.dumps(record))
    safetensors.torch.save_file(read_weights(weights_of(out)), weights_of(out))
    assert run(out) == []
    assert kd(out)["teachers"] == kd(finished_once)["teachers"]


def test_a_teacher_that_gives_no_numbers_is_named(tmp_path: Path) -> None:
    bench = trial.Bench(tmp_path)
    weights = dict(bench.task.network("cifar_resnet8").core.state_dict())
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name] = weights[name] * float("nan")
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "nan.safetensors")
    spec = TeacherSpec("cifar_resnet8", weights=str(tmp_path / "nan.safetensors"))
    with pytest.raises(KDBenchError, match=r"teacher 'cifar_resnet8@0' has weights that are no numbers .*running_var"):
        Teachers(tmp_path).load(bench.cell("kd"), spec, bench.task)

"""Records on disk: whole or not there, read back as written, and full of where the numbers come from."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from support.sample_record import sample

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.records import SCHEMA, Store, read_record, stores
from kdbench.records.files import write_atomically
from kdbench.training.provenance import provenance, revision

CPU = torch.device("cpu")
RECORD = sample()


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(RECORD)
    assert store.has("abc")
    assert store.read("abc") == RECORD
    assert store.all() == [RECORD]


def test_records_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for identity in ("c", "a", "b"):
        store.write({**RECORD, "id": identity})
    assert [record["id"] for record in store.all()] == ["a", "b", "c"]


def test_an_empty_store_has_no_records(tmp_path: Path) -> None:
    assert Store(tmp_path / "absent").all() == []
    assert not Store(tmp_path / "absent").has("abc")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_part_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(KDBenchError, match="no space left on the disk"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KDBenchError, match=r"cannot write .* choose another folder with --out"):
        write_atomically(tmp_path / "file" / "below", b"")


def test_trying_the_folder_removes_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(RECORD)
    store.save_checkpoint("xyz", {"epoch": 1})
    for folder in ("records", "checkpoints"):
        (tmp_path / folder / ".abc.json.k3x.partial").write_text("half")
    store.writable()
    kept = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert kept == ["abc.json", "xyz.pt"]


def test_a_forgotten_record_is_gone_and_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for identity in ("abc", "xyz"):
        store.write({**RECORD, "id": identity})
    store.forget("abc")
    store.forget("abc")  # there is none any more
    assert [record["id"] for record in store.all()] == ["xyz"]


def test_a_cell_is_interrupted_from_its_first_checkpoint_to_its_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen = [store.interrupted("abc")]
    store.save_checkpoint("abc", {"epoch": 1})
    seen.append(store.interrupted("abc"))
    store.write(RECORD)
    assert [*seen, store.interrupted("abc")] == [False, True, False]


def test_a_question_leaves_no_trace(tmp_path: Path) -> None:
    store = Store(tmp_path / "tiny")
    assert not any((store.has("abc"), store.interrupted("abc"), store.path("abc").exists(), store.all()))
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_has_a_store_per_suite_and_the_teachers(tmp_path: Path) -> None:
    for name in ("tiny", "teachers"):
        Store(tmp_path / name).write(RECORD)
    (tmp_path / "plots").mkdir()
    assert [store.folder.name for store in stores(tmp_path)] == ["teachers", "tiny"]
    assert [store.has("abc") for store in stores(tmp_path)] == [True, True]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", json.dumps({"id": "abc"}).encode(), json.dumps({**RECORD, "id": "xyz"}).encode(),
     json.dumps({**RECORD, "schema": "1"}).encode()],
    ids=["empty", "half", "list", "binary", "keys", "id", "schema"],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "abc.json"
    path.write_bytes(content)
    with pytest.raises(KDBenchError) as caught:
        read_record(path)
    assert f"record {str(path)!r} is damaged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_a_newer_kdbench_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "abc.json"
    path.write_text(json.dumps({**RECORD, "schema": SCHEMA + 1}))
    with pytest.raises(KDBenchError, match="was written by a newer kdbench: upgrade"):
        read_record(path)


def test_provenance_names_versions_hardware_numerics_revision_and_time() -> None:
    found = provenance(Numerics(CPU))
    assert set(found) == {"versions", "hardware", "numerics", "git", "finished_at"}
    assert set(found["versions"]) == {"kdbench", "python", "torch", "torchvision", "timm", "numpy"}
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"processor", "cores", "system"} <= set(found["hardware"])
    assert found["numerics"] == {
        "device": "cpu",
        "precision": "fp32",
        "precision_rule": "given",
        "compile": False,
        "compile_rule": "given",
        "cuda_graphs": False,
        "channels_last": True,
        "threads": 1,
        "tf32": False,
    }
    assert found["finished_at"].endswith("+00:00")
    json.dumps(found, allow_nan=False)


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    revision.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert revision() is None
    revision.cache_clear()


def test_a_record_of_the_first_schema_is_read_with_what_it_lacks_empty(tmp_path: Path) -> None:
    old = {**RECORD, "schema": 1, "cost": {"seconds_per_epoch": 2.0}}
    (tmp_path / "abc.json").write_text(json.dumps(old))
    record = read_record(tmp_path / "abc.json")
    assert record["schema"] == SCHEMA
    assert record["result"] == {**RECORD["result"], "ece": None, "reliability": None}
    assert record["cost"]["seconds_per_epoch"] == 2.0
    assert record["cost"]["latency_ms_batch1"] is None


def test_a_failed_record_of_the_first_schema_is_read(tmp_path: Path) -> None:
    (tmp_path / "abc.json").write_text(json.dumps({**RECORD, "schema": 1, "status": "failed"}))
    assert read_record(tmp_path / "abc.json")["status"] == "failed"

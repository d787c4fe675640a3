"""The thread that writes checkpoints: in order, whole, and heard where the disk is full."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.records import Store, checkpoints
from kdbench.records.snapshots import Snapshot
from kdbench.records.writer import WAITING, Writer

CPU = torch.device("cpu")


def snapshot(epoch: int) -> Snapshot:
    return Snapshot({"epoch": epoch, "weights": torch.full((3,), float(epoch))})


def epoch_of(store: Store) -> int | None:
    state = store.restore("abc", CPU, lambda state: state, pytest.fail)
    return None if state is None else state["epoch"]


def test_what_was_brought_is_on_disk_after_a_wait_and_the_last_one_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    writer = Writer(store)
    for epoch in (1, 2, 3):
        writer.bring("abc", snapshot(epoch))
    writer.wait()
    assert epoch_of(store) == 3
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    writer.close()


def test_it_is_another_thread_that_writes_and_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    monkeypatch.setattr(Store, "save_checkpoint", lambda *_: threads.append(threading.current_thread()))
    writer = Writer(Store(tmp_path))
    for epoch in range(1, 9):
        writer.bring("abc", snapshot(epoch))
    writer.close()
    assert len(threads) == 8
    assert len({*threads}) == 1
    assert threads[0] is not threading.current_thread()


def test_few_snapshots_wait_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever brings more than that goes on only when one is written."""
    gate, brought = threading.Event(), []
    monkeypatch.setattr(Store, "save_checkpoint", lambda *_: gate.wait())
    writer = Writer(Store(tmp_path))

    def bring() -> None:
        for epoch in range(1, WAITING + 3):
            writer.bring("abc", snapshot(epoch))
            brought.append(epoch)
            if epoch == WAITING:
                full.set()

    full = threading.Event()
    other = threading.Thread(target=bring)
    other.start()
    assert full.wait(60)
    other.join(0.05)
    assert other.is_alive()
    assert len(brought) == WAITING
    gate.set()
    other.join(60)
    assert len(brought) == WAITING + 2
    writer.close()


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize("where", ["the next one brought", "a wait", "the end"])
def test_a_full_disk_is_heard_with_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    store = Store(tmp_path)
    writer = Writer(store)
    writer.bring("abc", snapshot(1))
    writer.wait()
    full_disk(monkeypatch)
    writer.bring("abc", snapshot(2))
    writer._pending[0].exception()  # so that it is known
    call = {"the next one brought": lambda: writer.bring("abc", snapshot(3)), "a wait": writer.wait}
    with pytest.raises(KDBenchError, match=r"no space left on the disk of .*free some and run the same command again"):
        call.get(where, writer.close)()
    monkeypatch.undo()
    writer.close()
    assert epoch_of(store) == 1
    assert not list(tmp_path.rglob("*.partial"))


def test_what_else_goes_wrong_in_the_thread_is_a_sentence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("of torch\nand more")

    monkeypatch.setattr(checkpoints, "sealed", broken)
    writer = Writer(Store(tmp_path))
    writer.bring("abc", snapshot(1))
    with pytest.raises(KDBenchError, match=r"checkpoint of cell abc could not be written \(RuntimeError: of torch\)"):
        writer.close()
    assert writer._thread is None

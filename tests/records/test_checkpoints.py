"""Checkpoints: whole, of their cell, data only, and never the only one."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdbench.records import SCHEMA, Store, checkpoints
from kdbench.records.files import Unreadable

CPU = torch.device("cpu")
RECORD = {"id": "abc", "cell": {}, "schema": SCHEMA}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One with two checkpoints of cell `abc`: of epoch 1 and, as the last one, of epoch 2."""
    store = Store(tmp_path)
    for epoch in (1, 2):
        store.save_checkpoint("abc", {"epoch": epoch, "weights": torch.full((3,), float(epoch))})
    return store


def restored(store: Store, identity: str = "abc") -> tuple[int | None, list[str]]:
    """The epoch that a cell goes on from, and what was said."""
    said: list[str] = []
    state = store.restore(identity, CPU, lambda state: state, said.append)
    return (state["epoch"] if state else None), said


def last(store: Store) -> Path:
    return checkpoints.places(store.folder / "checkpoints", "abc")[0]


def test_a_state_comes_back_as_it_was(store: Store) -> None:
    state = store.restore("abc", CPU, lambda state: state, pytest.fail)
    assert state is not None
    assert torch.equal(state["weights"], torch.full((3,), 2.0))


def test_a_cell_without_checkpoints_has_none(store: Store) -> None:
    assert restored(store, "xyz") == (None, [])


def test_two_checkpoints_are_kept_and_no_more(store: Store) -> None:
    store.save_checkpoint("abc", {"epoch": 3})
    assert len(list((store.folder / "checkpoints").iterdir())) == 2
    last(store).unlink()
    assert restored(store) == (2, [])


@pytest.mark.parametrize("kill", range(3))
def test_whatever_rename_a_kill_meets_a_whole_checkpoint_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch, kill: int
) -> None:
    real, calls = os.replace, []

    def dying(*names: Any) -> None:
        calls.append(names)
        if len(calls) > kill:
            raise KeyboardInterrupt
        real(*names)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        store.save_checkpoint("abc", {"epoch": 3})
    assert restored(store) == (2, [])


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def raw(path: Path) -> None:
    """As kdbench wrote them before they had a head."""
    torch.save({"epoch": 2}, path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def others(path: Path) -> None:
    path.write_bytes(checkpoints.sealed("xyz", {"epoch": 2}))


class Payload:
    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> object:
        return os.mkdir, (self.trace,)


def code(path: Path) -> None:
    path.write_bytes(checkpoints.sealed("abc", {"epoch": 2, "code": Payload(str(path.parent / "executed"))}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the head": lambda path: flip(path, 0.0),
    "a bit of the digest": lambda path: flip(path, 0.03),
    "a bit in the middle": lambda path: flip(path, 0.5),
    "a bit at the end": lambda path: flip(path, 1.0),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "garbage": lambda path: path.write_bytes(b"garbage" * 99),
    "an older version's": raw,
    "another cell's": others,
    "a folder": folder,
    "code": code,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_whole_checkpoint_of_the_cell_is_set_aside_and_the_one_before_is_used(
    store: Store, damage: str
) -> None:
    DAMAGE[damage](last(store))
    epoch, said = restored(store)
    assert epoch == 1
    (sentence,) = said
    assert str(last(store)) in sentence
    assert f"it is now '{last(store).name}.damaged'" in sentence
    assert os.path.lexists(f"{last(store)}.damaged")
    assert not (store.folder / "checkpoints" / "executed").exists()


def test_when_both_are_damaged_the_cell_begins_again(store: Store) -> None:
    for path in checkpoints.places(store.folder / "checkpoints", "abc"):
        flip(path, 0.5)
    epoch, said = restored(store)
    assert (epoch, len(said)) == (None, 2)


def test_what_was_set_aside_before_is_not_overwritten(store: Store) -> None:
    for content in (b"one", b"two"):
        last(store).write_bytes(content)
        restored(store)
    assert Path(f"{last(store)}.damaged").read_bytes() == b"one"
    assert Path(f"{last(store)}.damaged.2").read_bytes() == b"two"


def test_a_state_that_its_user_refuses_gives_way_to_the_one_before(store: Store) -> None:
    def use(state: dict[str, Any]) -> int:
        if state["epoch"] == 2:
            raise checkpoints.Unfit("it is of another method")
        return state["epoch"]

    said: list[str] = []
    assert store.restore("abc", CPU, use, said.append) == 1
    assert "(it is of another method)" in said[0]


def test_a_checkpoint_that_may_not_be_read_stays_where_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Unreadable, match=r"abc\.pt' cannot be read \(Permission denied\): change its permissions"):
        restored(store)
    monkeypatch.undo()
    assert restored(store) == (2, [])


@pytest.mark.parametrize(("status", "left"), [("done", 0), ("not_applicable", 0), ("failed", 2)])
def test_a_record_takes_the_place_of_its_checkpoints_unless_it_failed(store: Store, status: str, left: int) -> None:
    store.write({**RECORD, "status": status})
    assert len(list((store.folder / "checkpoints").iterdir())) == left


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("value", [Payload("x"), np.float64(1.0), Colour.RED, np.zeros(2), print, {Payload: 1}])
def test_what_would_not_come_back_is_found_wherever_it_is(value: object) -> None:
    state = {"epoch": 1, "method": {"a": torch.ones(1), "_extra_state": [1, ("x", {"deep": value})]}}
    (found,) = checkpoints.unstorable(state)
    assert "method._extra_state[1][1].deep" in found


def test_plain_state_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    state = {"epoch": 1, "x": [1, 2.5, "a", b"b", None, True, (1,), {3}, {"k": torch.ones(1)}, torch.float16, CPU]}
    assert list(checkpoints.unstorable(state)) == []
    store.save_checkpoint("abc", state)
    assert store.restore("abc", CPU, lambda state: state, pytest.fail) == state

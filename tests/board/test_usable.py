"""Whatever lies in the place of a record: its name and the key that is wrong, never a traceback or a wrong number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdbench.board.publishing.publish import publish
from kdbench.board.usable import set_aside_damaged, usable
from kdbench.errors import KDBenchError
from kdbench.records import Store
from kdbench.suites.parse import load

CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no provenance": (lambda r: r.pop("provenance"), "provenance: it is missing"),
    "no suite": (lambda r: r.pop("suite"), "suite: it is missing"),
    "no reason": (lambda r: r.pop("reason"), "reason: it is missing"),
    "no method": (lambda r: r["cell"].pop("method"), "cell.method: it is missing"),
    "method a string": (lambda r: r["cell"].update(method="kd"), "cell.method: it is no table"),
    "label a table": (lambda r: r["cell"]["method"].update(label={}), "cell.method.label: dict is no type"),
    "label a number": (lambda r: r["cell"]["method"].update(label=1), "cell.method.label: int is no type"),
    "label half a character": (
        lambda r: r["cell"]["method"].update(label="\ud800"),
        "cell.method.label: it holds half",
    ),
    "time a number": (lambda r: r["provenance"].update(finished_at=1), "provenance.finished_at: int is no type"),
    "no result": (lambda r: r.pop("result"), "result: it is missing"),
    "result null": (lambda r: r.update(result=None), "result: it is no table"),
    "curve a string": (lambda r: r.update(curve="up"), "curve: it is no list"),
    "points without epoch": (lambda r: r["curve"][0].pop("epoch"), "curve[0].epoch: it is missing"),
    "status a list": (lambda r: r.update(status=["done"]), "status: list is no type"),
    "status paused": (lambda r: r.update(status="paused"), "status: 'paused': it is none of done, failed"),
    "seed a string": (lambda r: r["cell"].update(seed="0"), "cell.seed: str is no type"),
    "schema true": (lambda r: r.update(schema=True), "schema: True: there is no such version"),
    "schema 0": (lambda r: r.update(schema=0), "schema: 0: there is no such version"),
    "schema a string": (lambda r: r.update(schema="2"), "schema: '2': there is no such version"),
    "schema 99": (lambda r: r.update(schema=99), "was written by a newer kdbench"),
    "another's id": (lambda r: r.update(id="0" * 16), "it says id '0000000000000000'"),
    "999 %": (lambda r: r["result"].update(top1=999.0), "result.top1: 999.0: it is not between 0 and 100"),
    "NaN": (lambda r: r["result"].update(top1=float("nan")), "result.top1: nan: it is not finite"),
    "top-1 a string": (lambda r: r["result"].update(top1="99"), "result.top1: str is no type"),
    "top-1 null": (lambda r: r["result"].update(top1=None), "result.top1: NoneType is no type"),
    "-5 seconds": (lambda r: r["cost"].update(seconds_per_epoch=-5), "cost.seconds_per_epoch: -5: it is negative"),
    "cost null": (lambda r: r.update(cost=None), "cost: it is no table"),
    "teachers null": (lambda r: r.update(teachers=None), "teachers: it is no list"),
}
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "garbage": b"\0\1\2 garbage",
    "cut off": b'{"id": "ab',
    "a list": b"[1]",
    "UTF-16": '{"id": 1}'.encode("utf-16"),
    "a BOM": b"\xef\xbb\xbf{}",
    "200,000 lists": b"[" * 200_000 + b"]" * 200_000,
}


@pytest.fixture
def store(tiny_runs: Path, tmp_path: Path) -> Store:
    shutil.copytree(tiny_runs, tmp_path / "runs")
    return Store(tmp_path / "runs" / "tiny")


def victim(store: Store) -> Path:
    return store.paths()[0]


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


def spoilt(store: Store, how: str) -> str:
    """Spoil a record; returns what is to be said of it."""
    if how in CONTENTS:
        victim(store).write_bytes(CONTENTS[how])
        return "is damaged"
    change(victim(store), CHANGES[how][0])
    return CHANGES[how][1]


@pytest.mark.parametrize("how", [*CHANGES, *CONTENTS])
def test_a_record_that_no_run_wrote_is_named_with_its_key_and_the_others_are_used(store: Store, how: str) -> None:
    whole = len(store.paths())
    wanted = spoilt(store, how)
    records, (said,) = usable(store.paths())
    assert len(records) == whole - 1
    assert str(victim(store)) in said
    assert wanted in said
    assert "delete" not in said


def test_sound_records_are_all_used(store: Store) -> None:
    records, said = usable(store.paths())
    assert said == []
    assert records == store.all()


def test_a_run_sets_aside_what_no_run_wrote_and_leaves_what_a_newer_kdbench_wrote(store: Store) -> None:
    first, second, *_ = store.paths()
    change(first, CHANGES["999 %"][0])
    change(second, CHANGES["schema 99"][0])
    (said,) = set_aside_damaged(store)
    assert first.name in said
    assert not first.exists()
    assert (store.folder / "records" / "damaged" / first.name).is_file()
    assert second.exists()


@pytest.mark.parametrize("how", ["999 %", "no provenance", "NaN", "teachers null", "cost null", "empty"])
def test_nothing_is_published_before_every_record_was_looked_at(store: Store, tmp_path: Path, how: str) -> None:
    wanted = spoilt(store, how)
    with pytest.raises(KDBenchError) as said:
        publish(load(str(tmp_path / "runs" / "tiny.toml")), tmp_path / "runs", tmp_path / "published")
    assert victim(store).name in str(said.value)
    assert wanted in str(said.value)
    assert not (tmp_path / "published").exists()

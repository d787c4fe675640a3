"""Which cells a run takes up: asking changes nothing, and a failed record goes only when its cell runs again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.sample_record import sample

from kdbench.executors import local
from kdbench.executors.local import LocalExecutor
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.suites.grid import Cell
from kdbench.testing.trial import FP32, Bench, _Silent


@pytest.fixture
def failed(tmp_path: Path) -> tuple[Store, Cell]:
    """A cell whose record says that it failed."""
    cell = Bench(tmp_path).cell("student")
    store = Store(tmp_path / cell.suite)
    store.write(sample(id=cell.id, status="failed", reason="why", cell=cell.config))  # type: ignore[arg-type]
    return store, cell


@pytest.mark.parametrize("retry", [False, True])
def test_asking_whether_a_cell_is_done_deletes_nothing(failed: tuple[Store, Cell], retry: bool) -> None:
    store, cell = failed
    assert local._done(store, cell, retry) is not retry
    assert store.has(cell.id)


@pytest.mark.parametrize("retry", [False, True])
def test_a_failed_record_goes_where_its_cell_is_to_run_again(
    failed: tuple[Store, Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retry: bool
) -> None:
    store, cell = failed
    there: list[bool] = []

    def begin(self: LocalExecutor, cells: list[Cell], *rest: Any) -> None:
        there.extend(store.has(cell.id) for cell in cells)

    monkeypatch.setattr(LocalExecutor, "_check_networks", lambda *rest: None)  # no executor finds the bench's data
    monkeypatch.setattr(LocalExecutor, "_run_cohort", begin)
    monkeypatch.setattr(LocalExecutor, "_train_teachers", lambda *rest: "")
    LocalExecutor(tmp_path, _Silent()).run([cell], retry_failed=retry)
    assert there == ([False] if retry else [])
    assert store.has(cell.id) is not retry


def test_the_process_is_switched_to_a_cohorts_numerics_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[Numerics] = []
    monkeypatch.setattr(Numerics, "apply", lambda self: applied.append(self))
    bench = Bench(tmp_path, epochs=1)
    bench.run([bench.cell("student")])
    assert applied == [FP32]

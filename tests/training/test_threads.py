"""The number of threads is part of the result, and so it is never the machine's choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.commands import cost
from kdbench.executors.local import LocalExecutor
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Cell
from kdbench.testing.trial import _Silent
from kdbench.training import tuned
from kdbench.training.precision import numerics_of


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def cell(tiny_suite: Path) -> Cell:
    return parse.load(str(tiny_suite)).cells()[0]


def without_times(value: Any) -> Any:
    """A record without what is another with every run: seconds, latencies, the hour."""
    if isinstance(value, dict):
        timed = ("seconds", "step_times", "latency", "joules", "finished_at")
        return {key: without_times(entry) for key, entry in value.items() if not any(word in key for word in timed)}
    return [without_times(entry) for entry in value] if isinstance(value, list) else value


def test_a_cell_has_the_same_bits_in_a_process_that_would_take_two_threads(tiny_runs: Path, tmp_path: Path) -> None:
    words = ["run", str(tiny_runs / "tiny.toml"), "--methods", "kd", "--seeds", "0", "--device", "cpu"]
    command = [sys.executable, "-m", "kdbench", *words, "--out", str(tmp_path)]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, check=True, capture_output=True)
    paths = sorted(tmp_path.glob("*/records/*.json"))
    assert len(paths) == 2, "a teacher and its pupil"
    for path in paths:
        two, one = (json.loads((folder / path.relative_to(tmp_path)).read_text()) for folder in (tmp_path, tiny_runs))
        assert without_times(two) == without_times(one)
        assert two["provenance"]["numerics"]["threads"] == 1


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("given", "used"), [(None, 1), (2, 2)])
def test_data_are_made_under_the_threads_of_the_run_and_the_record_says_so(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int | None, used: int
) -> None:
    seen = []

    def stop(executor: LocalExecutor, cells: list[Cell], *_: Any) -> list[Cell]:
        seen.append((executor._task(cells[0], executor.numerics(cells[0])), torch.get_num_threads()))
        Store(tmp_path / cells[0].suite).write({"id": cells[0].id, "status": "done"})  # type: ignore[typeddict-item]
        return []

    monkeypatch.setattr(LocalExecutor, "_train", stop)
    monkeypatch.setattr(LocalExecutor, "_train_teachers", lambda *_: "")
    executor = LocalExecutor(tmp_path, _Silent(), device="cpu", threads=given)
    executor.run([cell])
    assert [threads for _, threads in seen] == [used]
    assert executor.numerics(cell).describe()["threads"] == used


def test_verdicts_on_compilation_hold_for_their_number_of_threads(cell: Cell, tmp_path: Path) -> None:
    one, two = (numerics_of(cell, "cpu", threads=threads) for threads in (1, 2))
    assert one.compile is False
    found = {"plain_ms": 2.0, "compiled_ms": 1.0, "compiling_s": 1.0, "compiled": True}
    tuned.write(tmp_path, dict.fromkeys(tuned.settings_of(cell, two), found))
    assert tuned.applied(one, cell, tmp_path) == one
    assert tuned.applied(two, cell, tmp_path).describe()["compile"] is True


def test_verdicts_of_older_versions_are_read_and_hold_for_no_cpu(cell: Cell, tmp_path: Path) -> None:
    one = numerics_of(cell, "cpu")
    tuned.write(tmp_path, {setting: {"compiled": True} for setting in tuned.settings_of(cell, one)})
    entries = json.loads((tmp_path / tuned.FILE).read_text())
    older = [{key: value for key, value in entry.items() if key != "threads"} for entry in entries]
    (tmp_path / tuned.FILE).write_text(json.dumps(older))
    assert {setting.threads for setting in tuned.read(tmp_path)} == {None}
    assert tuned.applied(one, cell, tmp_path) == one


@pytest.mark.usefixtures("two_threads")
def test_a_plan_is_timed_on_the_threads_of_a_run_and_leaves_the_process_as_it_was(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(cost, "seconds", lambda step, device: seen.append(torch.get_num_threads()) or 1.0)
    assert cost.measure(cell, numerics_of(cell, "cpu"), None, steps=2).alone > 0
    assert (seen, torch.get_num_threads()) == ([1] * 4, 2)  # two steps of the student, two of the teacher

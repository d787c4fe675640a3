"""Steps are timed beside a plain student's, on copies that leave no trace."""

from __future__ import annotations

import dataclasses
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdbench import registry
from kdbench.method import Batch, Method, Network, Output
from kdbench.records.lock import turn
from kdbench.records.step_times import UNTIMED, time_ratio
from kdbench.testing.checks import owns_its_parameters
from kdbench.testing.trial import Bench
from kdbench.training import pace
from kdbench.training.pace import FEWEST, MOST, pairs


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_timing_leaves_no_trace(bench: Bench) -> None:
    """Weights and curves are the same to the bit, also of methods with phases, banks, several students and views."""
    cells = [bench.cell(name) for name in ("crd", "dml", "ab", "sskd", "mmkd")]
    plain, timed = bench.run(cells, name="plain"), dataclasses.replace(bench, timed=True)
    timed.weights = bench.weights
    for before, after in zip(plain, timed.run(cells, name="timed"), strict=True):
        assert after["status"] == before["status"] == "done", after["reason"]
        scores = [[{k: v for k, v in point.items() if k != "seconds"} for point in r["curve"]] for r in (before, after)]
        assert scores[0] == scores[1], after["cell"]["method"]["name"]
        one, other = bench.weights["plain", after["id"]], bench.weights["timed", after["id"]]
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert before["cost"]["step_times"] == []
        phases = [entry["phase"] for entry in after["cost"]["step_times"]]
        assert phases == list(range(len(phases)))
        assert sum(entry["share"] for entry in after["cost"]["step_times"]) == pytest.approx(1)
        assert {len(entry[whose]) for entry in after["cost"]["step_times"] for whose in ("student", "own")} == {FEWEST}
    two_phases = next(r for r in timed.run(cells, name="timed") if r["cell"]["method"]["name"] == "ab")
    assert len(two_phases["cost"]["step_times"]) == 2


def test_a_stop_does_not_time_a_phase_twice(bench: Bench) -> None:
    timed = dataclasses.replace(bench, timed=True)
    record = timed.run([timed.cell("ab")], stop_after=3)[0]
    assert [entry["phase"] for entry in record["cost"]["step_times"]] == [0, 1]


def test_a_method_added_later_has_the_same_ratio(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's speed is by then, and whoever trains beside it."""
    speed, timed = [1.0], dataclasses.replace(bench, timed=True)
    monkeypatch.setattr(pace, "seconds", lambda call, device: speed[0] * {"own": 0.3, "students": 0.1}[call.__name__])
    first = timed.run([timed.cell("student"), timed.cell("kd")], name="first")[1]
    speed[0] = 17.0  # somebody else is at work
    later = timed.run([timed.cell("kd")], name="later")[0]
    ratios = [time_ratio(record["cost"]["step_times"])[0] for record in (first, later)]
    assert ratios == [pytest.approx(3.0)] * 2
    assert later["cost"]["step_times"][0]["own"][0] == 17 * first["cost"]["step_times"][0]["own"][0]


def test_a_teachers_pass_belongs_to_the_step_of_who_uses_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = pace.Pace.measure

    def counting(self: Any, learner: Any, batch: Any, teachers: Any) -> None:
        def called(teacher: Any, name: str) -> Any:
            return lambda batch: (calls.append(name), teacher(batch))[1]

        original(self, learner, batch, [called(teacher, learner.name) for teacher in teachers])

    monkeypatch.setattr(pace.Pace, "measure", counting)
    timed = dataclasses.replace(bench, timed=True)
    timed.run([timed.cell(name) for name in ("student", "kd", "aver_mkd")])
    assert [calls.count(name) for name in ("student", "kd", "aver_mkd")] == [0, FEWEST + 1, 2 * (FEWEST + 1)]


def test_what_cannot_be_timed_trains_all_the_same_and_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = dataclasses.replace(bench, timed=True)
    monkeypatch.setattr(pace.Pace, "_pairs", _raising(RuntimeError("no copies of me")))
    record = timed.run([timed.cell("kd")], name="odd")[0]
    assert record["status"] == "done"
    assert time_ratio(record["cost"]["step_times"]) == (None, "it could not be timed: RuntimeError: no copies of me")
    monkeypatch.setattr(pace.Pace, "_pairs", _raising(torch.OutOfMemoryError("CUDA out of memory")))
    record = timed.run([timed.cell("kd")], name="full")[0]
    assert record["status"] == "done"
    assert time_ratio(record["cost"]["step_times"]) == (None, "no memory was left to time it")


def _raising(error: Exception) -> Any:
    def raising(*_: Any) -> Any:
        raise error

    return raising


def test_the_ratio_is_a_median_of_pairs_by_the_share_of_phases() -> None:
    once = {"phase": 0, "share": 0.25, "student": [1.0, 10.0, 1.0], "own": [2.0, 20.0, 9.0]}
    again = {"phase": 1, "share": 0.75, "student": [1.0, 1.0, 1.0], "own": [4.0, 4.0, 4.0]}
    assert time_ratio([once]) == (pytest.approx(2.0), "")
    assert time_ratio([once, again]) == (pytest.approx(0.25 * 2 + 0.75 * 4), "")
    assert time_ratio([once, {"phase": 1, "share": 0.75, "reason": "why"}]) == (None, "why")
    assert time_ratio(None) == time_ratio([]) == (None, UNTIMED)


@pytest.mark.parametrize(("epochs", "expected"), [(4, FEWEST), (100, 4), (10_000, MOST)])
def test_pairs_take_few_of_the_steps(bench: Bench, epochs: int, expected: int) -> None:
    long = dataclasses.replace(bench, epochs=epochs)
    assert pairs(long.learner(long.cell("kd"))) == expected  # 2 steps an epoch


def test_processes_time_in_turns(tmp_path: Path) -> None:
    code = "from kdbench.records.lock import turn\nwith turn('test'): print('in', flush=True); input()"

    def started() -> Any:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, **pipes)

    first = started()
    assert first.stdout.readline() == "in\n"
    second = started()
    assert select.select([second.stdout], [], [], 1.0)[0] == [], "both had the turn at once"
    first.communicate("\n")
    assert second.stdout.readline() == "in\n"
    second.communicate("\n")


def test_a_folder_without_locks_stops_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "absent"))
    with turn("test"):
        pass


def test_the_students_own_layers_are_no_extra_parameters(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method may keep one as an attribute."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @registry.register("keeper", family="logits")
    class Keeper(Method):
        def build(self, student: Network, teacher: Network) -> None:
            self.own, self.head = torch.nn.Linear(3, 5), student.classifier

        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, torch.Tensor]:
            return {"ce": F.cross_entropy(student.logits, batch.targets) + 0 * self.own.weight.sum()}

    assert bench.learner(bench.cell("keeper")).cost()["extra_parameters"] == 3 * 5 + 5
    said = "keeps layers of the student as its own (head.bias, head.weight): they are no extra parameters"
    assert owns_its_parameters(bench, "keeper") == said
    assert owns_its_parameters(bench, "fitnet") == ""

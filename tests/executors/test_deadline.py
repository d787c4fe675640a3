"""A run with a deadline starts what can end in time, stops at an epoch's end, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.outcomes import without_times
from typer.testing import CliRunner

from kdbench.commands import run as running
from kdbench.commands.cli import app
from kdbench.executors.deadline import Deadline, OutOfTime
from kdbench.executors.local import LocalExecutor
from kdbench.executors.pace import Pace
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Cell
from kdbench.testing.trial import Bench, _Silent


@dataclass
class Clock:
    """Time that passes when the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Ticking(_Silent):
    """A listener for which each cell's epoch takes so many seconds of the clock."""

    clock: Clock = field(default_factory=Clock)
    seconds: float = 1.0
    epochs: list[tuple[str, str, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def epoch_done(self, cell: Cell, epoch: int, scores: dict[str, Any]) -> None:
        self.clock.now += self.seconds
        self.epochs.append((cell.role, cell.method.label, epoch))

    def notice(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def cells(tiny_suite: Path) -> list[Cell]:
    """Two cells of one cohort, of four epochs; their teacher has two."""
    tiny_suite.write_text(
        tiny_suite.read_text().replace("epochs = 2", "epochs = 4") + "\n[teacher_recipe]\nepochs = 2\n"
    )
    return parse.narrow(parse.load(str(tiny_suite)), seeds=[0]).cells()


def executor(out: Path, seconds: float | None, each: float = 10.0, guess: float = 0.0) -> tuple[LocalExecutor, Ticking]:
    """An executor to which an epoch of a cell takes `each` seconds, of which it was told `guess`."""
    clock = Clock()
    listener = Ticking(clock=clock, seconds=each)
    deadline = None if seconds is None else Deadline(seconds, lambda cell: guess, clock)
    return LocalExecutor(out, listener, device="cpu", deadline=deadline), listener


def test_what_cannot_end_in_time_does_not_start(cells: list[Cell], tmp_path: Path) -> None:
    """The teacher's two epochs take 20 seconds; a cell's four then take 40, and the time is for one of the two."""
    local, listener = executor(tmp_path, 70.0, guess=10.0)
    local.run(cells)
    assert [epoch for epoch in listener.epochs if epoch[0] == "teacher"] == [
        ("teacher", "student", 1),
        ("teacher", "student", 2),
    ]
    assert {label for role, label, _ in listener.epochs if role == "student"} == {"student"}
    assert [Store(tmp_path / "tiny").has(cell.id) for cell in cells] == [True, False]
    assert "1 of 2 cells train, the others could not end in time" in listener.said[0]
    late = local.late(cells)
    assert late is not None
    assert (late.cells, late.seconds) == (1, 40.0)


def test_a_teacher_that_cannot_end_in_time_does_not_start_either(cells: list[Cell], tmp_path: Path) -> None:
    local, listener = executor(tmp_path, 15.0, guess=10.0)
    local.run(cells)
    assert listener.epochs == []
    late = local.late(cells)
    assert late is not None
    assert (late.cells, late.shortest) == (2, 20.0)
    assert late.seconds == 100.0  # of the cells 80, which are thought to be like the teacher


def test_a_cohort_that_runs_out_of_time_goes_on_later_to_the_same_results(cells: list[Cell], tmp_path: Path) -> None:
    """Nothing was known of how long it takes: the first epochs show it."""
    local, _ = executor(tmp_path / "parts", 30.0)
    local.run(cells)
    store = Store(tmp_path / "parts" / "tiny")
    assert [store.epochs_done(cell.id) for cell in cells] == [1, 1]
    assert not any(store.has(cell.id) for cell in cells)
    late = local.late(cells)
    assert late is not None
    assert (late.cells, late.seconds) == (2, 60.0)  # three epochs of two cells

    executor(tmp_path / "parts", 1000.0)[0].run(cells)
    executor(tmp_path / "whole", None)[0].run(cells)
    whole = Store(tmp_path / "whole" / "tiny")
    for cell in cells:
        assert without_times(store.read(cell.id)) == without_times(whole.read(cell.id))  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("checkpoints/*.pt"))


def test_cells_give_way_so_that_others_end(cells: list[Cell], tmp_path: Path) -> None:
    """After two epochs of both cells it shows that four epochs of both are too many: the first one goes on alone."""
    local, listener = executor(tmp_path, 20.0 + 65.0)
    local.run(cells)
    store = Store(tmp_path / "tiny")
    assert [store.has(cell.id) for cell in cells] == [True, False]
    assert store.epochs_done(cells[1].id) == 2
    assert [label for role, label, _ in listener.epochs if role == "student"] == ["student", "kd"] * 2 + ["student"] * 2


def test_a_teacher_that_runs_out_of_time_is_kept_as_it_is(cells: list[Cell], tmp_path: Path) -> None:
    local, listener = executor(tmp_path, 5.0)
    local.run(cells)
    assert listener.epochs == [("teacher", "student", 1)]
    training = cells[0].training_of(cells[0].teachers[0])
    assert Store(tmp_path / "teachers").epochs_done(training.id) == 1
    again, heard = executor(tmp_path, None)
    again.run(cells)
    assert heard.epochs[0] == ("teacher", "student", 2)


def test_time_that_is_left_is_used(cells: list[Cell], tmp_path: Path) -> None:
    """A guess that is far too long lets one cell start; it ends soon, and the other follows."""
    local, _ = executor(tmp_path, 1000.0, each=1.0, guess=200.0)
    local.run(cells)
    assert all(Store(tmp_path / "tiny").has(cell.id) for cell in cells)
    assert local.late(cells) is None


def test_without_a_deadline_nothing_is_weighed(cells: list[Cell], tmp_path: Path) -> None:
    local, _ = executor(tmp_path, None)
    assert local.late(cells) is None


# ------------------------------------------------------------------------------------------ how long cells take


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Cell, Cell]:
    bench = Bench(tmp_path)
    return bench.cell("student"), bench.cell("kd")


def test_an_epoch_is_shared_out_by_what_each_cell_took(pair: tuple[Cell, Cell]) -> None:
    pace = Pace(lambda cell: 99.0)
    for seconds in (12.0, 9.0, 90.0):
        pace.saw(seconds, {pair[0]: 1.0, pair[1]: 2.0})
    assert [pace.epoch(cell) for cell in pair] == [4.0, 8.0]  # medians: one slow epoch changes nothing


def test_a_guess_is_made_once_and_only_where_nothing_was_seen(pair: tuple[Cell, Cell], tmp_path: Path) -> None:
    asked: list[Cell] = []
    pace = Pace(lambda cell: asked.append(cell) or 7.0)  # type: ignore[func-returns-value]
    assert pace.epoch(pair[0], ask=False) is None
    assert pace.total([(pair[0], Store(tmp_path))]) is None
    assert [pace.epoch(cell) for cell in pair] == [7.0, 7.0]
    assert len(asked) == 1
    pace.saw(10.0, dict.fromkeys(pair, 1.0), rough=True)
    assert pace.epoch(pair[0]) == 5.0
    pace.saw(8.0, {pair[0]: 1.0})
    assert [pace.epoch(cell) for cell in pair] == [8.0, 8.0]  # a method not seen is as the others


def learner(cell: Cell, epoch: int, seconds: float = 1.0) -> Any:
    return SimpleNamespace(cell=cell, epoch=epoch, recipe=cell.recipe, curve=[{"seconds": seconds}])


def test_the_first_epoch_is_no_reason_to_stop_while_there_is_time(pair: tuple[Cell, Cell]) -> None:
    clock = Clock()
    deadline = Deadline(50.0, lambda cell: 0.0, clock)
    watch = deadline.watch()
    clock.now = 40.0  # data was loaded, networks were compiled
    watch([learner(pair[0], 1)], [learner(pair[0], 1)])
    clock.now = 44.0
    with pytest.raises(OutOfTime):  # two more epochs of four seconds do not fit
        watch([learner(pair[0], 2)], [learner(pair[0], 2)])
    watch([learner(pair[0], 4)], [])  # what is finished is not stopped


# ------------------------------------------------------------------------------------------ the command


def stopped(suite: Path, out: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["run", str(suite), "--out", str(out), "--device", "cpu", *words])


def with_clock(monkeypatch: pytest.MonkeyPatch, left: float) -> None:
    """A deadline at which so many seconds are left, and an epoch is thought to take one."""
    made: Callable[..., Deadline] = lambda *_: Deadline(left, lambda cell: 1.0, Clock())  # noqa: E731
    monkeypatch.setattr(running, "_deadline", made)


def test_the_command_says_what_is_left_and_succeeds(
    tiny_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_clock(monkeypatch, 1.0)
    result = stopped(tiny_suite, tmp_path, "--stop-after", "1s")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == (
        "stopped, as told by --stop-after 1s: 0 of 4 cells are done, 4 are left, which will take about 10 s; none of "
        "them could end in that time, for the shortest takes about 2 s; the same command goes on with them"
    )


def test_a_run_that_ends_in_time_says_nothing_of_it(tiny_suite: Path, tmp_path: Path) -> None:
    result = stopped(tiny_suite, tmp_path, "--stop-after", "1h", "--methods", "student", "--seeds", "0")
    assert result.exit_code == 0, result.output
    assert "stopped" not in result.output


@pytest.mark.parametrize("text", ["90", "0s", "x", "-1h", "1h30x", "30m2h", "1 h"])
def test_what_is_no_span_of_time_is_refused_before_anything_is_written(
    tiny_suite: Path, tmp_path: Path, text: str
) -> None:
    result = stopped(tiny_suite, tmp_path / "runs", f"--stop-after={text}")
    assert str(result.exception) == f"--stop-after {text!r} is no span of time: write 90s, 30m, 2h or 1h30m"
    assert not (tmp_path / "runs").exists()

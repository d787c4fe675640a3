"""Guards of compiled students are passed over, where that is asked for, once all that a phase needs is compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.hardware import compiled
from kdbench.hardware.lanes import CudaLanes
from kdbench.hardware.numerics import Numerics
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner
from kdbench.training.steps import Steps, steps_of

COMPILED = Numerics(torch.device("cpu"), compile=True, backend="eager")
EPOCHS = 6


def epochs_without_guards(bench: Bench, method: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], Any]:
    inside, found = [False], []

    @contextmanager
    def without_guards() -> Iterator[None]:
        inside[0] = True
        with real():
            yield
        inside[0] = False

    real, step = compiled.without_guards, Learner.train_step

    def train_step(learner: Learner, number: int, *given: Any) -> None:
        found.append((learner.epoch + 1, inside[0]))
        step(learner, number, *given)

    monkeypatch.setattr(compiled, "without_guards", without_guards)
    monkeypatch.setattr(Learner, "train_step", train_step)
    (record,) = bench.run([bench.cell(method)])
    return sorted({epoch for epoch, skipped in found if skipped}), record


@pytest.mark.parametrize(("method", "expected"), [("kd", [2, 3, 4, 5, 6]), ("fsp", None)])
def test_guards_are_passed_over_from_the_second_epoch_of_each_phase_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, expected: list[int] | None
) -> None:
    small = {"teacher": "cifar_resnet8", "samples": 10, "batch_size": 4, "image_size": 8, "epochs": EPOCHS}
    skipping = Bench(tmp_path / "skip", numerics=dataclasses.replace(COMPILED, skip_guards=True), **small)  # type: ignore[arg-type]
    bounds = skipping.learner(skipping.cell(method)).bounds
    firsts = {1, *(end + 1 for end in bounds)}
    found, record = epochs_without_guards(skipping, method, monkeypatch)
    assert found == [epoch for epoch in range(1, EPOCHS + 1) if epoch not in firsts]
    assert expected is None or found == expected
    monkeypatch.undo()
    (plain,) = Bench(tmp_path / "plain", numerics=COMPILED, **small).run([skipping.cell(method)])  # type: ignore[arg-type]
    assert record["status"] == plain["status"] == "done"
    assert record["result"] == plain["result"]


@pytest.mark.parametrize("numerics", [COMPILED, Numerics(torch.device("cpu"), skip_guards=True)])
def test_they_are_looked_at_where_nobody_asks_or_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numerics: Numerics
) -> None:
    bench = Bench(tmp_path, teacher="cifar_resnet8", samples=8, batch_size=4, image_size=8, epochs=3, numerics=numerics)
    assert epochs_without_guards(bench, "student", monkeypatch)[0] == []


class Stream:
    """In place of a stream or an event of CUDA's: writes down what it is asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __getattr__(self, asked: str) -> Any:
        return lambda *others: self.log.append(f"{self.name} {asked} {' '.join(str(other.name) for other in others)}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What streams that are not there were asked for, in order."""
    log: list[str] = []
    made = iter(range(9))

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        log.append(f"into {stream.name}")
        yield
        log.append(f"out of {stream.name}")

    @contextmanager
    def capture(graph: Any, pool: str, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        log.append(f"capture in {pool} on {stream.name} ({capture_error_mode})")
        yield

    pools = iter("pq")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"lane{next(made)}", log))
    monkeypatch.setattr(torch.cuda, "Event", lambda: Stream("event", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main", log))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "graph")
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return log


def test_lanes_begin_after_the_main_stream_and_the_main_stream_goes_on_after_them(log: list[str]) -> None:
    lanes = CudaLanes(torch.device("cuda"), 2)
    lanes.fork()
    for lane in (0, 1, 0):
        with lanes.on(lane):
            log.append("work")
    lanes.join()
    assert log == [
        "event record main",
        "lane0 wait_event event", "into lane0", "work", "out of lane0",
        "lane1 wait_event event", "into lane1", "work", "out of lane1",
        "into lane0", "work", "out of lane0",
        "main wait_stream lane0", "main wait_stream lane1",
    ]  # fmt: skip
    log.clear()
    lanes.fork()
    lanes.join()
    assert log == ["event record main"], "a lane without work is not waited for"


def test_graphs_of_a_lane_share_their_memory_and_those_of_others_do_not(log: list[str]) -> None:
    lanes = CudaLanes(torch.device("cuda"), 2)
    for lane in (0, 1, 0):
        with lanes.capture(lane) as graph:
            assert graph == "graph"
    expected = ["capture in p on lane0", "capture in q on lane1", "capture in p on lane0"]
    assert log == [f"{line} (thread_local)" for line in expected]


@pytest.mark.usefixtures("log")
def test_graphs_are_taken_where_they_are_asked_for() -> None:
    from kdbench.training.graphs import Graphs

    assert type(steps_of(Numerics(torch.device("cuda")))) is Steps
    found = steps_of(Numerics(torch.device("cuda"), graphs=2))
    assert isinstance(found, Graphs)
    assert found._lanes.count == 2

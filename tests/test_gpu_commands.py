"""`python -m benchmarks.gpu` at a size that shows only that it runs: every table is filled, on a CPU."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support.fake_graphs import FakeGraph, FakeLanes
from typer.testing import CliRunner

from benchmarks.gpu import bits, cohorts, lanes, networks, show, training
from benchmarks.gpu.__main__ import CORRECT, SPEED, USER, app
from benchmarks.gpu.bits import agreed
from benchmarks.gpu.scale import TOY
from benchmarks.gpu.sheet import Part, Row, Sheet
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics

COMMANDS = {"correct": CORRECT, "speed": SPEED, "user": USER}
ONLY_ON_CUDA = {"compiled_students"}
DOCS = Path(__file__).parents[1] / "docs" / "gpu.md"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module", params=COMMANDS)
def command(request: pytest.FixtureRequest, out: Path) -> str:
    call(request.param, out)
    return request.param


def call(command: str, out: Path, *more: str) -> str:
    words = [command, "--toy", "--device", "cpu", "--limit", "900", "--out", str(out), *more]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def kept(out: Path, command: str) -> dict[str, Any]:
    return json.loads((out / f"{command}.json").read_text())["parts"]


@pytest.mark.slow
@pytest.mark.xdist_group("gpu")
def test_every_part_has_rows_and_every_question_the_answer_yes(out: Path, command: str) -> None:
    parts = kept(out, command)
    assert {part.name for part in COMMANDS[command]} - ONLY_ON_CUDA <= parts.keys()
    for name, steps in parts.items():
        for key, step in steps.items():
            assert "error" not in step, f"{name} {key}: {step['error']}"
            assert step["rows"], f"{name} {key}"
            answers = [value for row in step["rows"] for value in row.values() if isinstance(value, bool)]
            assert all(answers), f"{name} {key}: {step['rows']}"


@pytest.mark.slow
@pytest.mark.xdist_group("gpu")
def test_what_is_finished_is_not_run_again_and_a_table_comes_last(
    out: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise AssertionError("it is finished")

    monkeypatch.setattr(Sheet, "_take", taken)
    before = kept(out, command)
    said = call(command, out)
    assert kept(out, command) == before
    titles = [part.title for part in COMMANDS[command] if part.name in before]
    places = [said.index(title) for title in (*titles, f"benchmarks.gpu {command}")]
    assert places == sorted(places)
    assert said.splitlines()[-1].endswith(f"gpu-{command}.tar.gz")
    with tarfile.open(out / f"gpu-{command}.tar.gz") as archive:
        assert {f"{command}.json", f"{command}.txt"} <= set(archive.getnames())


@pytest.mark.slow
@pytest.mark.xdist_group("gpu")
def test_the_page_says_what_each_column_means(out: Path, command: str) -> None:
    text = DOCS.read_text()
    for name, steps in kept(out, command).items():
        assert f"`{name}`" in text, name
        for column in {column for step in steps.values() for row in step["rows"] for column in row}:
            assert f"`{column}`" in text, f"{name}: {column}"


def test_without_a_gpu_it_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match="there is no CUDA device here: --toy"):
        CliRunner().invoke(app, ["speed", "--device", "cpu", "--out", str(tmp_path)], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ graphs


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[FakeLanes]:
    """A CPU with streams and graphs; those that were asked for."""
    made: list[FakeLanes] = []

    def fake(device: torch.device, count: int) -> FakeLanes:
        made.append(FakeLanes(count))
        return made[-1]

    monkeypatch.setattr("kdbench.training.steps.CudaLanes", fake)
    for module in (bits, cohorts, networks, training):
        monkeypatch.setattr(module, "has_graphs", lambda numerics: True)
    return made


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays that do nothing."""
    monkeypatch.setattr(FakeGraph, "replay", lambda graph: None)


def replayed(streams: list[FakeLanes]) -> list[int]:
    found = [sum(graph.replays for graph in each.graphs) for each in streams if each.happened]
    assert found
    return found


def rows_of(out: Path, part: Part) -> list[Row]:
    found = sheet(out)
    assert found.run([part]) == []
    for key, step in found.parts[part.name].items():
        assert "error" not in step, f"{key}: {step['error']}"
    rows, text = found.rows(part.name), DOCS.read_text()
    assert {column for row in rows for column in row if f"`{column}`" not in text} == set()
    return rows


def test_final_students_of_graphs_are_compared_with_those_of_steps_as_they_are(
    tmp_path: Path, streams: list[FakeLanes]
) -> None:
    rows = rows_of(tmp_path, bits.GRAPHS)
    assert [row["method"] for row in rows] == list(TOY.methods)
    assert {row["steps"] for row in rows} == {"as graphs"}
    assert all(row["1 stream"] and row["8 streams"] for row in rows)
    assert [each.count for each in streams if each.happened] == [1, 8]
    assert min(replayed(streams)) > TOY.epochs * len(TOY.methods)


def test_a_whole_cohort_is_timed_as_graphs_to_the_same_bits(tmp_path: Path, streams: list[FakeLanes]) -> None:
    six = [row for row in rows_of(tmp_path, cohorts.PART) if row["learners"] == len(TOY.cohort)]
    assert [row["way"] for row in six] == ["as they are", "1 stream", "8 streams"]
    assert [row["as graphs"] for row in six] == [0, len(TOY.cohort), len(TOY.cohort)]
    assert [row["equal"] for row in six] == [None, True, True]
    assert min(replayed(streams)) > 0


def test_learners_side_by_side_are_kdbenchs_own_graphs(tmp_path: Path, streams: list[FakeLanes]) -> None:
    (row,) = lanes.on_streams(sheet(tmp_path), 2)
    assert (row["learners"], row["steps"], row["equal"]) == (2, "as graphs", True)
    assert min(replayed(streams)) > 2 * lanes.EXACT
    (row,) = networks.student(sheet(tmp_path), "cifar_resnet8", "graph")
    assert row["steps"] == "as graphs"
    assert replayed(streams)[-1] > 0


@pytest.mark.usefixtures("streams", "forgetful")
def test_graphs_that_change_a_bit_are_answered_no(tmp_path: Path) -> None:
    assert not any(row["1 stream"] or row["8 streams"] for row in rows_of(tmp_path, bits.GRAPHS))
    assert [row["equal"] for row in lanes.on_streams(sheet(tmp_path), 1)] == [False]


# ------------------------------------------------------------------------------------------ the sheet


def sheet(out: Path, limit: float = 60.0, **machine: str) -> Sheet:
    numerics = Numerics(torch.device("cpu"))
    return Sheet(out, "correct", TOY, numerics, limit, {"name": "this", **machine}, Console(quiet=True))


def part(*steps: Callable[[], list[Row]]) -> Part:
    def named(_: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
        yield from ((str(number), step) for number, step in enumerate(steps))

    return Part("some", "some", named)


def test_it_stops_at_its_limit_within_a_step_and_goes_on_later(tmp_path: Path) -> None:
    stuck = [True]

    def long() -> list[Row]:
        while stuck[0]:
            pass
        return [{"value": 2}]

    steps = part(lambda: [{"value": 1}], long, lambda: [{"value": 3}])
    first = sheet(tmp_path, limit=1.1)
    assert first.run([steps]) == ["some 1", "some 2"]
    assert first.rows("some") == [{"value": 1}]
    stuck[0] = False
    again = sheet(tmp_path)
    assert again.rows("some") == [{"value": 1}]
    assert again.run([steps]) == []
    assert [row["value"] for row in again.rows("some")] == [1, 2, 3]


def test_a_step_that_fails_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    broken = [True]

    def step() -> list[Row]:
        if broken[0]:
            raise ValueError("no such kernel")
        return [{"value": 1}]

    steps, first = part(step, lambda: [{"value": 2}]), sheet(tmp_path)
    assert first.run([steps]) == []
    assert first.rows("some") == [{"value": 2}]
    assert "some 0: ValueError: no such kernel" in show.text(first, [steps], [])
    broken[0] = False
    again = sheet(tmp_path)
    again.run([steps])
    assert len(again.rows("some")) == 2


def test_another_machines_results_are_not_gone_on_from(tmp_path: Path) -> None:
    sheet(tmp_path).run([part(lambda: [{"value": 1}])])
    with pytest.raises(KDBenchError, match="was measured on another machine"):
        sheet(tmp_path, name="that")
    assert dataclasses.replace(sheet(tmp_path)).rows("some")


def test_a_failure_is_no_agreement() -> None:
    found = {"cohort": {"kd": "failed: x", "at": "ab", "fsp": "not_applicable: y"}}
    found["alone"] = dict(found["cohort"])
    assert [agreed(found, "alone", name) for name in ("kd", "at", "fsp")] == [False, True, True]


@pytest.mark.parametrize(
    ("value", "said"), [(True, "yes"), (False, "NO"), (None, "-"), (1234.5, "1,234"), (0.01234, "0.0123"), (7, "7")]
)
def test_a_cell_of_a_table(value: Any, said: str) -> None:
    assert show.cell(value) == said

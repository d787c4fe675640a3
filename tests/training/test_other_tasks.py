"""A task that classifies nothing goes through the same loop: an `Output` and scores of its own, lower is better."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support import toy_language
from support.outcomes import without_times
from support.toy_language import LENGTH, VOCABULARY, Continuation, LanguageModel, LanguageTask

from kdbench.commands.cost import measure
from kdbench.commands.progress import Display
from kdbench.executors.local import LocalExecutor
from kdbench.hardware import compiled
from kdbench.hardware.numerics import Numerics
from kdbench.method import Taps
from kdbench.reads import Undeclared, declared
from kdbench.records import Record
from kdbench.suites.grid import Cell
from kdbench.suites.parse import parse
from kdbench.testing import trial
from kdbench.training import footprint, tune
from kdbench.training.cost import deployed_cost
from kdbench.training.learner import Learner
from kdbench.training.tuned import settings_of

METHODS = ("student", "kd", "dml")
CPU = Numerics(torch.device("cpu"))


def cells(methods: Sequence[str] = METHODS) -> list[Cell]:
    return parse({**toy_language.SUITE, "seeds": [1], "methods": list(methods)}).cells()


def train(out: Path, methods: Sequence[str] = METHODS, stop_after: int = 0) -> dict[str, Record]:
    """The records of these methods by name."""
    wanted, found = cells(methods), {}
    LocalExecutor(out, trial._Silent(stop_after), device="cpu").run(wanted)
    for cell in wanted:
        found[cell.method.label] = json.loads((out / "language" / "records" / f"{cell.id}.json").read_text())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    train(folder)
    return folder


@pytest.fixture
def records(folder: Path) -> dict[str, Record]:
    return train(folder)


@pytest.fixture
def learner() -> Learner:
    """Of `kd`, before its first epoch."""
    cell = cells(["kd"])[0]
    task = LanguageTask(cell.dataset, cell.recipe, CPU, None, False)
    teacher = task.network("lm_24_2").requires_grad_(False).eval()
    return Learner(cell, task, task.training_set(0, False), CPU, [teacher])


@pytest.mark.parametrize("method", METHODS)
def test_methods_train_on_what_has_no_classes(records: dict[str, Record], method: str) -> None:
    record = records[method]
    assert record["status"] == "done", record["reason"]
    assert record["curve"][-1]["perplexity"] < record["curve"][0]["perplexity"] < VOCABULARY


@pytest.mark.parametrize("method", METHODS)
def test_the_best_epoch_is_the_lowest(records: dict[str, Record], method: str) -> None:
    result, scores = records[method]["result"], [point["perplexity"] for point in records[method]["curve"]]
    assert result["best_perplexity"] == min(scores)
    assert result["best_epoch"] == 1 + scores.index(min(scores))


def test_one_of_these_is_not_the_last(records: dict[str, Record]) -> None:
    assert records["student"]["result"]["best_epoch"] not in (1, records["student"]["curve"][-1]["epoch"])


def test_a_record_holds_the_tasks_scores_and_what_it_keeps_and_no_others(records: dict[str, Record]) -> None:
    student, dml = records["student"]["result"], records["dml"]["result"]
    assert student.keys() == {
        *("perplexity", "bits", "distance", "best_perplexity", "best_epoch", "likelihood", "extra"),
    }
    assert student["perplexity"] == records["student"]["curve"][-1]["perplexity"]
    assert toy_language.METRICS.recompute is not None
    assert toy_language.METRICS.recompute(student)["perplexity"] == student["perplexity"]
    assert (student["extra"], dml["extra"].keys()) == ({}, {"mean_student_perplexity"})


def test_a_teacher_is_described_by_the_primary_score(records: dict[str, Record]) -> None:
    teachers = [record["teachers"] for record in records.values()]
    assert teachers[0][0].keys() == {"network", "seed", "weights", "sha256", "perplexity"}
    assert 1 < teachers[0][0]["perplexity"] < VOCABULARY
    assert teachers[0] == teachers[1]


def test_the_terminal_shows_it(records: dict[str, Record]) -> None:
    console, cell = Console(file=io.StringIO(), width=200), cells(["kd"])[0]
    display, result = Display(console, 1, 0), records["kd"]["result"]
    display.cohort_started([cell])
    display.epoch_done(cell, 1, records["kd"]["curve"][0])
    assert display._latest == {cell.id: f"kd {records['kd']['curve'][0]['perplexity']:.1f}"}
    display.cell_ended(cell, "done", "", result)
    assert f"seed 1: perplexity {result['perplexity']:.3f}\n" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("saved_each_epoch")
def test_stopped_between_epochs_it_ends_with_the_same_record(records: dict[str, Record], tmp_path: Path) -> None:
    with pytest.raises(trial._Stop):
        train(tmp_path, stop_after=2)
    assert without_times(train(tmp_path)) == without_times(records)


@pytest.mark.parametrize("method", METHODS)
def test_alone_a_cell_ends_with_the_same_record_as_in_a_cohort(
    records: dict[str, Record], tmp_path: Path, method: str
) -> None:
    assert without_times(train(tmp_path, [method])[method]) == without_times(records[method])


def test_a_finished_checkpoint_without_what_the_task_keeps_is_evaluated_again(learner: Learner) -> None:
    while not learner.finished:
        learner.begin_epoch()
        with torch.no_grad():
            outputs = [learner.teachers[0](batch.inputs) for batch in learner.data.epoch(0)]
        for number, batch in enumerate(learner.data.epoch(0)):
            learner.train_step(number, batch, [outputs[number]])
        learner.end_epoch(None, 0.0)
    state, result = learner.state_dict(), learner.result()
    del state["kept"]  # as an older kdbench wrote it
    learner.load_state_dict(state)
    assert learner.result() == result


# ---------------------------------------------------------------------------------------------- an Output of its own


@pytest.fixture
def network() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel("lm_8_2", 8, 2)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.arange(2 * LENGTH).view(2, LENGTH) % VOCABULARY


def test_a_compiled_network_gives_it_whole_in_one_graph(network: LanguageModel, inputs: torch.Tensor) -> None:
    torch._dynamo.reset()
    call = torch.compile(compiled._forward, backend="aot_eager", fullgraph=True, dynamic=False)
    output, plain = call(network, Taps((2,)), inputs), network(inputs)
    assert isinstance(output, Continuation)
    assert torch.allclose(output.log_probabilities, plain.log_probabilities)
    assert output.features[0] is None
    assert torch.equal(output.features[1], plain.features[1])


def test_a_method_sees_it_without_the_maps_that_it_does_not_declare(
    network: LanguageModel, inputs: torch.Tensor
) -> None:
    output = network(inputs)
    shown: Any = declared(output, Taps(), "mine")
    assert shown.log_probabilities is output.log_probabilities
    with pytest.raises(Undeclared):
        shown.features[0]


def test_what_is_deployed_is_counted_by_its_answer(network: LanguageModel) -> None:
    cost = deployed_cost(network, torch.zeros(1, LENGTH, dtype=torch.int64))
    convolutions, head = 2 * LENGTH * 2 * 8 * 8, LENGTH * 8 * VOCABULARY
    assert cost["deployed_macs"] == convolutions + head
    assert cost["deployed_parameters"] == sum(p.numel() for p in network.parameters())


def test_its_step_is_rehearsed_without_computing(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "twin_of", only_fake(footprint.twin_of))
    need = footprint.rehearse(learner)
    assert need.lasting >= 2 * sum(p.nbytes for p in learner.students[0].parameters())  # weights and gradients
    assert 0 < need.step < 2**20
    assert 0 < footprint.students_alone(learner) < math.inf


def only_fake(twin: Any) -> Any:
    """A copy for a step with fake tensors; none for a real one."""

    def copied(learner: Learner) -> Learner:
        made = twin(learner)
        assert type(next(made.students[0].parameters()).data) is not torch.Tensor
        return made

    return copied


def test_a_plan_times_it(learner: Learner) -> None:
    assert measure(learner.cell, CPU, None).alone > 0


def test_tune_times_it(learner: Learner) -> None:
    eager = Numerics(torch.device("cpu"), backend="aot_eager")
    student, teacher = settings_of(learner.cell, eager)
    for setting in (student, teacher):
        found = tune.compare(learner.task, setting, eager)
        assert found["plain_ms"] > 0 < found["compiled_ms"]

"""Translation goes through the loop like every task: the loop's four properties, and which methods apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.outcomes import without_times

from kdbench import registry
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.records import Record
from kdbench.registry.applies import tasks_of
from kdbench.seeding import seed_all
from kdbench.tasks.metrics import of
from kdbench.tasks.translation import toy
from kdbench.tasks.translation.task import TranslationTask
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner

pytestmark = pytest.mark.xdist_group("text")
CPU = Numerics(torch.device("cpu"))
LOGITS = ("student", "kd", "dkd", "dist", "lskd", "dml", "aver_mkd", "word_kd")  # one cohort
CORPORA = {
    "seq_kd": {"beams": 2},
    "seq_inter": {"hypotheses": 4, "fine_tuning": 0.5},
    "mhd": {"hypotheses": 2, "drawn": 4},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.of("translation", tmp_path_factory.mktemp("translation"))


@pytest.fixture(scope="module")
def records(bench: Bench) -> dict[str, Record]:
    """Of methods that read logits, side by side, and of those that train on a corpus, each alone."""
    found = dict(zip(LOGITS, bench.run([bench.cell(name) for name in LOGITS]), strict=True))
    return found | {name: bench.run([bench.cell(name, **values)])[0] for name, values in CORPORA.items()}


@pytest.mark.parametrize("name", [*LOGITS, *CORPORA])
def test_methods_train_on_it(records: dict[str, Record], name: str) -> None:
    record = records[name]
    assert record["status"] == "done", record["reason"]
    assert record["curve"][-1]["loss"] < record["curve"][0]["loss"]


def test_a_record_holds_scores_signatures_and_what_they_follow_from(records: dict[str, Record]) -> None:
    result, table = records["kd"]["result"], of("translation")
    assert {metric.name for metric in table.scores} <= result.keys()
    assert table.recompute is not None
    for name, value in table.recompute(result).items():
        assert value == pytest.approx(result[name])
    assert {name: text.partition("|")[0] for name, text in result["signatures"].items()} == {
        "bleu": "nrefs:1", "chrf": "nrefs:1",
    }  # fmt: skip
    assert records["dml"]["result"]["extra"].keys() == {"mean_student_chrf"}
    assert 0 <= result["likeness"] <= 100


def test_a_record_says_which_corpus_was_trained_on(records: dict[str, Record]) -> None:
    found: dict[str, Any] = {name: records[name]["corpus"] for name in CORPORA}  # type: ignore[typeddict-item]
    assert found["mhd"]["pairs"] + found["mhd"]["empty"] == 2 * 21
    assert found["seq_inter"]["choice"] == "reference"
    for corpus in found.values():
        assert corpus["written"]["hypotheses"] == 21 * corpus["rule"]["drawn"]
        assert corpus["seconds"] > 0
    assert "corpus" not in records["kd"]


def test_interpolation_begins_with_the_teachers_best_and_ends_with_the_references(bench: Bench) -> None:
    cell = bench.cell("seq_inter", hypotheses=4, fine_tuning=0.5)
    learner = learner_of(bench, cell)
    assert [phase.name for phase in learner.phases] == ["sequences", "interpolation"]
    batch = next(iter(learner.data.epoch(0)))
    seen: list[int] = []
    learner.method.loss = lambda batch, *_: (
        seen.append(len(batch.targets)) or {"ce": sum(p.sum() for p in learner.students[0].parameters())}
    )  # type: ignore[assignment,func-returns-value]
    for phase in ("sequences", "interpolation"):
        learner.begin_epoch()
        learner.method.phase = phase
        learner.train_step(0, batch, [])
    assert seen == [len(batch.first[1]), len(batch.targets)]  # type: ignore[attr-defined]


def learner_of(bench: Bench, cell: Any) -> Learner:
    teacher = bench.teachers.load(cell, cell.teachers[0], bench.task)
    corpus = cell.corpus
    assert corpus is not None
    data, _ = bench.task.corpus_set(corpus, bench.task.write(corpus, teacher, 0, 0, bench.task.sources()), 0)
    return Learner(cell, bench.task, data, bench.numerics, [teacher])


# ------------------------------------------------------------------------------------------------ the four properties


@pytest.mark.parametrize("name", ["word_kd", "mhd"])
def test_alone_a_cell_ends_with_the_same_record_as_beside_others(
    bench: Bench, records: dict[str, Record], name: str
) -> None:
    values = CORPORA.get(name, {})
    others = [bench.cell(name, **{**values, "label_smoothing": 0.3})] if values else []
    alone = bench.run([bench.cell(name, **values), *others], name="again")[0]
    assert without_times(alone) == without_times(records[name])


def test_all_methods_begin_with_the_same_student_and_batches(bench: Bench) -> None:
    weights = [
        learner_of(bench, bench.cell(name, **values)).students[0].state_dict() for name, values in CORPORA.items()
    ]
    for other in weights[1:]:
        assert all(torch.equal(weights[0][key], other[key]) for key in other)
    orders = [[batch.indices.tolist() for batch in bench.task.training_set(5, False).epoch(1)] for _ in range(2)]
    assert orders[0] == orders[1]


def test_one_that_fails_leaves_the_others_alone(bench: Bench, records: dict[str, Record], monkeypatch: Any) -> None:
    monkeypatch.setattr(registry.get("lskd"), "loss", lambda *_: {"kd": torch.tensor(float("nan"), requires_grad=True)})
    failed, done = bench.run([bench.cell("lskd"), bench.cell("word_kd")], name="with one that fails")
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert without_times(done) == without_times(records["word_kd"])


@pytest.mark.parametrize("name", ["word_kd", "seq_inter"])
def test_stopped_between_epochs_it_ends_with_the_same_record(
    bench: Bench, records: dict[str, Record], name: str
) -> None:
    stopped = bench.run([bench.cell(name, **CORPORA.get(name, {}))], stop_after=2, name="stopped")[0]
    assert without_times(stopped) == without_times(records[name])


# ---------------------------------------------------------------------------------------------- what holds of teachers


def test_a_teacher_is_as_it_was_whatever_mode_a_wrapper_is_put_into(bench: Bench) -> None:
    """The engine's `train()` reaches methods and students only; dropout would change what a teacher says and writes."""
    cell = bench.cell("word_kd")
    teacher = bench.teachers.load(cell, cell.teachers[0], bench.task)
    learner = Learner(cell, bench.task, bench.task.training_set(0, False), bench.numerics, [teacher])
    batch = next(iter(learner.data.epoch(0)))
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    with torch.no_grad():
        wanted = teacher(batch.inputs).logits
    for _ in range(3):
        learner.begin_epoch()
        assert not teacher.training
        with torch.no_grad():
            output = teacher(batch.inputs)
        assert torch.equal(output.logits, wanted)
        learner.train_step(0, batch, [output])
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("name", ["word_kd", "kd", "dkd", "dist", "lskd"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_divergence_without_labels_moves_the_student_and_no_teacher(bench: Bench, name: str, compiled: bool) -> None:
    cell = bench.cell(name)
    teacher = bench.teachers.load(cell, cell.teachers[0], bench.task)
    seed_all("student")
    student = bench.task.network(toy.STUDENT)
    call = torch.compile(student, backend="eager") if compiled else student
    batch = next(iter(bench.task.training_set(0, False).epoch(0)))
    terms = registry.create(name).loss(batch, call(batch.inputs), teacher(batch.inputs))
    distilled = sum(term for key, term in terms.items() if key != "ce")
    assert distilled > 0
    distilled.backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.model.model.decoder.layers.parameters())  # type: ignore[union-attr]
    assert all(p.grad is None for p in teacher.parameters())


# ---------------------------------------------------------------------------------------------- which methods apply


def test_what_reads_logits_or_sequences_applies_and_what_reads_maps_does_not() -> None:
    for name in (*LOGITS, *CORPORA, "seq_kd+word_kd"):
        assert "translation" in tasks_of(registry.get(name)), name
    for name in ("at", "fitnet", "ofd"):
        assert "translation" not in tasks_of(registry.get(name))
    for name in ("word_kd", *CORPORA):
        assert tasks_of(registry.get(name)) == ["translation"]


def test_word_level_distillation_is_kd_at_its_temperature(bench: Bench) -> None:
    student, teacher = bench.task.network(toy.STUDENT).eval(), bench.task.network(toy.TEACHER).eval()
    batch = next(iter(bench.task.training_set(0, False).epoch(0)))
    outputs = student(batch.inputs), teacher(batch.inputs)
    mine = registry.create("word_kd", {"kd_weight": 0.9, "label_smoothing": 0.0, "temperature": 4.0}).loss(
        batch, *outputs
    )
    theirs = registry.create("kd", {"kd_weight": 0.9, "ce_weight": 0.1, "temperature": 4.0}).loss(batch, *outputs)
    for key in ("ce", "kd"):
        torch.testing.assert_close(mine[key], theirs[key])


def test_the_example_fits_the_blank_targets() -> None:
    task = toy.toy(CPU)
    network: Network = task.network(toy.STUDENT)
    inputs = task.example().repeat(3, 1, 1)
    assert len(network(inputs).logits) == len(task.blank_targets(3))
    assert isinstance(task, TranslationTask)


def test_folder_of_corpora_lies_beside_the_teachers(bench: Bench, records: dict[str, Record]) -> None:
    found = {path.name for path in (bench.folder / "corpora").iterdir()}
    assert {records[name]["corpus"]["id"] for name in CORPORA} <= found  # type: ignore[typeddict-item]
    assert isinstance(bench.folder, Path)

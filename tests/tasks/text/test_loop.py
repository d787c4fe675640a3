"""Text goes through the one loop: its four properties, which methods run, both of MNLI's sets, a student's use."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import Batch, Method, Output, register, registry
from kdbench.errors import NotApplicable
from kdbench.hardware.numerics import Numerics
from kdbench.registry.applies import exceptions
from kdbench.tasks.text.data.sets import TextData, Texts
from kdbench.tasks.text.data.tokenizers import make
from kdbench.tasks.text.metrics import METRICS
from kdbench.tasks.text.task import TextTask
from kdbench.testing.trial import Bench
from kdbench.training.stopping import Stopping

pytestmark = pytest.mark.xdist_group("text")

COHORT = ("student", "kd", "mlkd_bert", "makd")
CPU = Numerics(torch.device("cpu"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With a cohort that is trained."""
    bench = Bench.of("text", tmp_path_factory.mktemp("text"))
    records = bench.run([bench.cell(method) for method in COHORT])
    assert [record["status"] for record in records] == ["done"] * len(COHORT), [r["reason"] for r in records]
    return bench


def same(bench: Bench, method: str, folder: str) -> bool:
    identity = bench.cell(method).id
    one, other = bench.weights["results", identity], bench.weights[folder, identity]
    return all(torch.equal(one[key], other[key]) for key in one)


def test_a_cell_ends_at_the_same_bits_alone_and_in_a_cohort(bench: Bench) -> None:
    bench.run([bench.cell("mlkd_bert")], name="alone")
    assert same(bench, "mlkd_bert", "alone")


def test_a_cell_that_was_stopped_ends_at_the_same_bits(bench: Bench) -> None:
    bench.run([bench.cell("makd"), bench.cell("mlkd_bert")], stop_after=2, name="stopped")
    assert same(bench, "makd", "stopped")
    assert same(bench, "mlkd_bert", "stopped")


@pytest.mark.usefixtures("temporary")
def test_methods_of_one_seed_share_student_batches_and_dropout(bench: Bench) -> None:
    seen: dict[str, list[Tensor]] = {"a": [], "b": []}
    for name, order in seen.items():

        @register(f"watch_text_{name}", family="text")
        class Watch(Method):
            reads_logits = False
            kept = order

            def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
                if len(self.kept) < 2:
                    self.kept += [batch.inputs.clone(), student.logits.detach().clone()]
                return student.supervised(batch)

    bench.run([bench.cell("watch_text_a")], name="watched_a")
    bench.run([bench.cell("watch_text_b")], name="watched_b")
    assert all(torch.equal(one, other) for one, other in zip(*seen.values(), strict=True))


@pytest.mark.usefixtures("temporary")
def test_every_step_pairs_a_text_with_what_the_teacher_says_of_it(bench: Bench) -> None:
    """After a resume, too."""
    cell = bench.cell("kd")
    said = bench.teachers.load(cell, cell.teachers[0], bench.task).eval()
    with torch.no_grad():
        known = torch.cat([said(each.inputs).logits for each in bench.task.training_set(0, False).batches()])
    seen: dict[int, list[Tensor]] = {}

    @register("pairs_text", family="text")
    class Pairs(Method):
        reads_logits = False

        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            seen.setdefault(self.epoch, []).append(batch.indices)
            torch.testing.assert_close(teacher.logits, known[batch.indices], rtol=1e-4, atol=1e-5)
            return student.supervised(batch)

    orders = []
    for name, stop in (("whole", 0), ("stopped", 2)):
        seen.clear()
        (record,) = bench.run([bench.cell("pairs_text")], stop_after=stop, name=f"pairs {name}")
        assert record["status"] == "done", record["reason"]
        # the last of an epoch: a first step may be tried before it is taken
        orders.append(torch.stack([torch.cat(seen[epoch])[-len(known) :] for epoch in sorted(seen)]))
    assert torch.equal(*orders)
    assert all(torch.equal(epoch.sort().values, torch.arange(len(known))) for epoch in orders[0])
    assert not torch.equal(orders[0][0], orders[0][1])


@pytest.mark.usefixtures("temporary")
def test_a_learner_fails_alone(bench: Bench) -> None:
    @register("fails_on_text", family="text")
    class Fails(Method):
        reads_logits = False

        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            if self.epoch == 2:
                raise ValueError("in its second epoch")
            return student.supervised(batch)

    cells = [bench.cell("fails_on_text"), bench.cell("minilm", relation_heads=5), bench.cell("kd")]
    failed, refused, done = bench.run(cells, name="failing")
    assert (failed["status"], failed["reason"]) == ("failed", "ValueError: in its second epoch")
    assert refused["status"] == "not_applicable"
    assert "relation_heads are 5" in refused["reason"]
    assert done["status"] == "done"
    assert same(bench, "kd", "failing")


def test_every_method_that_is_said_to_apply_builds_on_a_text_network(bench: Bench) -> None:
    """Or needs assistants, which the pair does not name."""
    refused = {}
    names = [n for n in registry.names("text") if registry.get(n).__module__.startswith("kdbench.methods.")]
    for name in names:
        try:
            bench.learner(bench.cell(name))
        except NotApplicable as error:
            refused[name] = str(error)
    assert {name for name, why in refused.items() if "assistants" not in why} == set(), refused
    assert {"alp_kd", "kd", "dkd", "dist", "lskd", "dml", "aver_mkd", "fitnet", "sp", "rkd", "pkt"} <= {*names}
    assert not {*exceptions()["text"]} & {*names}


@pytest.mark.parametrize("method", ["alp_kd", "mlkd_bert", "distilbert", "bert_pkd", "tinybert", "minilm", "makd"])
def test_a_methods_terms_reach_the_student_alone_and_train_its_projections(bench: Bench, method: str) -> None:
    learner = bench.learner(bench.cell(method))
    batch = next(iter(learner.data.epoch(1)))
    with torch.no_grad():
        teacher = learner.teachers[0](batch.inputs)
    for place in range(len(learner.phases)):
        learner._enter_phase(place)
        output = learner.students[0](batch.inputs)
        terms = learner.method.loss(batch, output, teacher)
        own = sum((t for name, t in terms.items() if name != "ce"), torch.zeros(()))
        assert own > 0
        learner.students[0].zero_grad()
        own.backward()
        assert any(p.grad is not None and p.grad.any() for p in learner.students[0].parameters())
    assert all(p.grad is None for p in learner.teachers[0].parameters())
    assert all(p.grad is not None for p in learner.method.parameters())
    shipped = {id(p) for p in learner.deployed().parameters()}
    assert not shipped & {id(p) for p in learner.method.parameters()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_terms_of_half_precision_are_finite(dtype: torch.dtype) -> None:
    from kdbench.losses import answer_kl, token_mse

    hidden = torch.zeros(1, 2, 4, dtype=dtype)
    hidden[0, 0, 0] = 300
    assert token_mse(hidden, torch.zeros_like(hidden), None) == 90000 / 8
    divergence = answer_kl(torch.tensor([[0.0, -20.0]], dtype=dtype).float(), torch.zeros(1, 2))
    assert divergence == pytest.approx(9.3, abs=0.05)


def test_a_teacher_in_a_learner_is_in_eval_mode_whatever_was_called(bench: Bench) -> None:
    learner = bench.learner(bench.cell("distilbert"))
    teacher = learner.teachers[0].train()
    learner.begin_epoch()
    inputs = next(iter(learner.data.epoch(1))).inputs
    assert torch.equal(teacher(inputs).logits, teacher(inputs).logits)


# ------------------------------------------------------------------------------------------ scores of a task


class Nli(TextTask):
    """Nine texts of a first test set and four of a second."""

    def __init__(self, *tokenizers: str) -> None:
        texts = Texts(tuple(f"text number {i}" for i in range(9)), tuple("cat" for _ in range(9)))
        targets = torch.arange(9) % 3
        tests = {"matched": (texts, targets), "mismatched": (texts.select(range(4)), targets[:4])}
        data = TextData("nli", texts, targets, tests, ("entailment", "neutral", "contradiction"))
        self._begin(data, [make(name, texts) for name in tokenizers or ("wordpiece",)], 8, 4, CPU)
        self.test_batch_size = 4


def test_both_sets_of_mnli_are_scored_in_order_and_the_first_is_ranked() -> None:
    task = Nli()
    network = task.network("bert(heads=2, layers=1, width=8)")
    predictions = task.evaluate(network)
    assert predictions.shape == (13, 3)
    torch.testing.assert_close(predictions[9:], predictions[:4])
    right = torch.nn.functional.one_hot(task.targets, 3) * 5.0
    right[:9] = right[:9].roll(1, 1)  # every matched one wrong
    found = task.scores(right)
    assert (found["score"], found["accuracy"], found["mismatched"]) == (0, 0, 100)
    assert task.keeps(right)["reliability"]["count"].__len__() == 15


def test_the_best_epoch_is_that_of_the_ranked_set_and_both_sets_are_kept(bench: Bench) -> None:
    task, epochs = Nli(), []
    for matched, mismatched in ((8, 2), (6, 3)):  # right ones of 9 and of 4
        answers = torch.nn.functional.one_hot(task.targets, 3) * 5.0
        for wrong in (*range(matched, 9), *range(9 + mismatched, 13)):
            answers[wrong] = answers[wrong].roll(1)
        epochs.append(task.scores(answers))
    assert [(each["score"], each["mismatched"]) for each in epochs] == [
        (pytest.approx(100 * 8 / 9), 50), (pytest.approx(100 * 6 / 9), 75),
    ]  # fmt: skip
    learner = bench.learner(bench.cell("student"))
    learner.curve, learner.kept = [{"epoch": n, **scores} for n, scores in enumerate(epochs, 1)], {}
    result = learner.result()
    assert (result["best_epoch"], result["best_score"]) == (1, pytest.approx(100 * 8 / 9))
    assert result["mismatched"] == 75


@pytest.mark.parametrize("undefined", [[2.5] * 4, [2.5, 2.5, 2.5, 2.5 + 1e-7]], ids=["constant", "all but constant"])
def test_an_epoch_without_a_correlation_blocks_no_later_one(bench: Bench, undefined: list[float]) -> None:
    from kdbench.tasks.text.scores import scores

    targets, weak = torch.tensor([1.0, 2.0, 3.0, 4.0]), [2.0, 3.9, 1.0, 3.0]
    learner = bench.learner(bench.cell("student"))
    stopping = Stopping(dataclasses.replace(learner.recipe, patience=3), METRICS.primary)
    found = [scores("correlation", torch.tensor(numbers)[:, None], targets) for numbers in (undefined, weak)]
    learner.curve, learner.kept = [{"epoch": n, "mismatched": None, **each} for n, each in enumerate(found, 1)], {}
    for epoch, each in enumerate(found, 1):
        assert each["score"] is not None
        stopping.look(each["score"], epoch, [], last=False)
    assert 0 < stopping.best == found[1]["score"] < 20
    assert learner.result()["best_epoch"] == stopping.epoch == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_fails_its_learner(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    whole = type(bench.task).scores
    monkeypatch.setattr(type(bench.task), "scores", lambda *given: {**whole(*given), "score": value})
    (record,) = bench.run([bench.cell("student")], name=f"scores {value}")
    assert record["status"] == "failed"
    assert f"the score 'score' of what student deploys became {value} in epoch 1" in record["reason"]


def test_a_student_answers_a_sentence() -> None:
    task = Nli()
    network = task.network("bert(heads=2, layers=1, width=8)").eval()
    answer: Any = network(task.planes(Texts(("text number 3",), ("cat",))).long())
    assert task.data.classes[int(answer.logits.argmax())] in task.data.classes
    torch.testing.assert_close(answer.logits, network(task.planes(task.data.train).long()).logits[3:4])


def test_content_tells_sets_apart(tmp_path: Path) -> None:
    one = Nli().data
    assert one.content == Nli().data.content
    assert one.content != one.select(torch.arange(8)).content


def test_a_teacher_and_a_student_of_other_tokens_share_answers_alone(bench: Bench) -> None:
    task = Nli("wordpiece", "wordpiece(vocabulary=20)")
    teacher = task.network("roberta(heads=2, layers=2, width=12)")
    student = task.network("bert(heads=2, layers=2, tokenizer='wordpiece(vocabulary=20)', width=12)")
    batch = next(iter(task.training_set(0, False).epoch(1)))
    for name in ("kd", "alp_kd"):
        method = registry.create(name)
        method.bind([student], [teacher])
        assert method.compute(batch, [student(batch.inputs)], [teacher(batch.inputs)])["kd"] > 0
    for name in (
        "distilbert",
        "tinybert",
        "minilm",
        "mlkd_bert",
        "fitnet",
        "fitnet_mkd",
        "sskd",
        "kd+fitnet",
        "sp+fitnet",
    ):
        with pytest.raises(NotApplicable, match="read other tokens"):
            registry.create(name).bind([student], [teacher, teacher])
    for name in ("sp", "irg", "kd+sp"):  # relations between samples need no common places
        registry.create(name).bind([student], [teacher])
    registry.create("fitnet").bind([student], [task.network(student.name)])

"""What holds for every method of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.texts import CLASSES, batch, built, distilled, given, network

from kdbench import Batch, NotApplicable, registry
from kdbench.method import Network, Taps
from kdbench.tasks.text.data.sets import Texts
from kdbench.testing.checks import leaves_the_teacher
from kdbench.testing.trial import FP32, Bench
from kdbench.training.learner import Learner

pytestmark = pytest.mark.xdist_group("text")

METHODS = ("alp_kd", "bert_pkd", "distilbert", "makd", "minilm", "mlkd_bert", "tinybert")
# with soft answers: in which phase, as which term, weighed by what
SOFT: dict[str, tuple[str, str, str]] = {
    "alp_kd": ("all", "kd", "kd_weight"),
    "bert_pkd": ("all", "kd", "alpha"),
    "distilbert": ("all", "kd", "kd_weight"),
    "makd": ("task", "kd", "kd_weight"),
    "mlkd_bert": ("samples", "kd", "kd_weight"),
    "tinybert": ("prediction", "prediction", ""),
}
WARM = ("alp_kd", "bert_pkd", "distilbert", "makd")  # at a temperature
FITTED = ("alp_kd", "bert_pkd", "distilbert", "mlkd_bert", "tinybert")  # where the widths differ


def made(name: str, phase: str = "all", classes: int = CLASSES, **settings: Any) -> Any:
    """On a pair that each of them takes."""
    student = network(12, rank=4, start="teacher", classes=classes)
    return built(name, settings, student, network(12, classes=classes), phase)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.of("text", tmp_path_factory.mktemp("text methods"))


@pytest.fixture(scope="module")
def wider(bench: Bench) -> Bench:
    """A pair whose teacher is as wide again."""
    return bench.variant("wider", student="bert(heads=2, layers=2, width=12)")


def phases(learner: Learner) -> Iterator[str]:
    """A method's phases, each of which is entered."""
    for place, phase in enumerate(learner.phases):
        learner._enter_phase(place)
        yield phase.name


# ------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", SOFT)
def test_soft_answers_are_summed_over_classes_and_averaged_over_samples(name: str, classes: int) -> None:
    phase, term, weight = SOFT[name]
    method = made(name, phase, classes)
    ours, theirs = given(1, 12, classes=classes), given(2, 12, classes=classes)
    heat = getattr(method, "temperature", 1.0)
    p, q = ((side.logits / heat).softmax(1) for side in (theirs, ours))
    rows = [
        sum(a * ((a / b).log() if name in WARM else -b.log()) for a, b in zip(*row, strict=True))
        for row in zip(p, q, strict=True)
    ]
    expected = getattr(method, weight, 1.0) * heat**2 * sum(rows) / len(rows)
    torch.testing.assert_close(method.loss(batch(classes), ours, theirs)[term], expected)


@pytest.mark.parametrize(("temperature", "gradient"), [(1.0, -0.0987), (4.0, -0.0999)])
@pytest.mark.parametrize("name", WARM)
def test_soft_answers_pull_as_hard_at_any_temperature(name: str, temperature: float, gradient: float) -> None:
    phase, term, weight = SOFT[name]
    method = made(name, phase, 2, temperature=temperature)
    ours, theirs = given(1, 12, classes=2), given(2, 12, classes=2)
    ours.logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    theirs.logits = torch.tensor([[0.4, 0.0]] * 2, dtype=torch.float64)
    found = torch.autograd.grad(method.loss(batch(2), ours, theirs)[term], ours.logits)[0]
    assert (2 * found[0, 0] / getattr(method, weight)).item() == pytest.approx(gradient, abs=5e-5)


@pytest.mark.parametrize("name", SOFT)
def test_in_a_regression_the_teachers_number_is_imitated_whatever_the_labels_say(name: str) -> None:
    phase, term, _ = SOFT[name]
    method = made(name, phase, 1)
    ours, theirs = given(1, 12, classes=1), given(2, 12, classes=1)
    ours.logits = theirs.logits = torch.tensor([[2.0], [4.0]], dtype=torch.float64)
    found = []
    for gold in ([5.0, 0.0], [1.0, 3.0]):
        seen = batch(1)
        seen.targets.copy_(torch.tensor(gold))
        found.append(method.loss(seen, ours, theirs))
    assert found[0][term] == found[1][term] == 0
    assert distilled(found[0]) == distilled(found[1])
    assert all(found[0][key] != found[1][key] for key in found[0] if key.startswith("labels."))


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "wsld"])
def test_a_choice_of_one_is_refused_by_methods_that_are_about_choices(name: str) -> None:
    with pytest.raises(NotApplicable, match=f"{name} reads logits of one choice among classes, but network 'net12x2'"):
        registry.create(name).bind([network(classes=1)], [network(classes=1)])


# ------------------------------------------------------------------------------------------ states


@pytest.fixture(scope="module")
def deberta(bench: Bench) -> Network:
    """Positions enter its scores."""
    return bench.task.network("deberta-v2(heads=2, layers=1, width=12)")


@pytest.mark.parametrize("name", ["makd", "minilm", "mlkd_bert", "tinybert"])
def test_a_network_whose_attention_cannot_be_told_is_refused_before_it_trains(deberta: Network, name: str) -> None:
    with pytest.raises(NotApplicable, match=f"{name} needs attentions, which network 'deberta"):
        registry.create(name).bind([deberta], [deberta])


@pytest.mark.parametrize("name", METHODS)
def test_padding_of_real_texts_enters_no_term_and_no_gradient(bench: Bench, name: str) -> None:
    learner = bench.learner(bench.cell(name))
    student, teacher = learner.students[0].eval(), learner.teachers[0].eval()
    texts = Texts(("cat", "blue dog sleeps under red house"))
    for _ in phases(learner):
        found = []
        for length in (8, 20):
            inputs = bench.task.tokenizers[0].planes(texts, length).long()  # type: ignore[attr-defined]
            seen = Batch(inputs, torch.tensor([0, 1]), torch.arange(2))
            terms = learner.method.loss(seen, student(inputs), teacher(inputs))
            sources = [p for p in (*student.parameters(), *learner.method.parameters()) if p.requires_grad]
            gradients = torch.autograd.grad(torch.stack([*terms.values()]).sum(), sources, allow_unused=True)
            found.append((terms, torch.cat([g.flatten() for g in gradients if g is not None])))
        (short, one), (long, other) = found
        for key, term in short.items():
            torch.testing.assert_close(long[key], term, rtol=1e-4, atol=1e-6)
        assert (one - other).norm() <= 1e-4 * one.norm()


@pytest.mark.parametrize("name", METHODS)
def test_terms_under_autocast_are_float32_and_finite(wider: Bench, name: str) -> None:
    there = wider if name in FITTED else wider.variant("alike", student="bert(heads=2, layers=2, rank=6, width=24)")
    learner = there.learner(there.cell(name))
    seen = next(iter(learner.data.epoch(0)))
    for _ in phases(learner):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = learner.method.loss(seen, learner.students[0](seen.inputs), learner.teachers[0](seen.inputs))
        for term in terms.values():
            assert term.dtype == torch.float32
            assert term.isfinite()


@pytest.mark.slow
def test_a_compiled_network_gives_every_state_with_its_gradient(bench: Bench) -> None:
    student = bench.task.network("bert(heads=2, layers=1, width=8)").eval()
    inputs = next(iter(bench.task.training_set(0, False).epoch(0))).inputs
    torch._dynamo.reset()
    call = dataclasses.replace(FP32, compile=True, backend="eager").compiled(student, len(inputs), Taps((1,)))
    assert call is not student
    found, plain = call(inputs), student(inputs)
    torch.testing.assert_close(found.logits, plain.logits, rtol=1e-4, atol=1e-5)
    for key in ("hidden", "queries", "keys", "values", "attended", "inner", "outer"):
        states = getattr(found, key)
        assert len(states) == len(getattr(plain, key)) > 0
        for own, other in zip(states, getattr(plain, key), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
        reached = torch.autograd.grad(
            states[-1].square().sum(), student.parameters(), retain_graph=True, allow_unused=True
        )
        assert any(gradient is not None and gradient.any() for gradient in reached), key


# ------------------------------------------------------------------------------------------ what trains, and what stays


@pytest.mark.parametrize("name", FITTED)
def test_a_projection_trains_is_saved_and_is_not_deployed(wider: Bench, name: str) -> None:
    learner = wider.learner(wider.cell(name))
    learner.begin_epoch()
    before = {key: value.clone() for key, value in learner.method.state_dict().items()}
    seen = next(iter(learner.data.epoch(0)))
    with torch.no_grad():
        outputs = [learner.teachers[0](seen.inputs)]
    learner.train_step(0, seen, outputs)
    trained = {key for key, parameter in learner.method.named_parameters() if parameter.requires_grad}
    saved = learner.state_dict()["method"]
    assert trained
    assert all(not torch.equal(before[key], saved[key]) for key in trained)
    assert learner.cost()["extra_parameters"] > 0
    fresh = wider.task.network(wider.student).eval()
    fresh.load_state_dict(learner.deployed().state_dict())
    assert torch.equal(fresh(seen.inputs).logits, learner.students[0].eval()(seen.inputs).logits)


@pytest.mark.parametrize("name", METHODS)
def test_no_step_changes_a_teacher(bench: Bench, name: str) -> None:
    leaves_the_teacher(bench, name)

"""Which methods apply to which task, known from their traits alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from kdbench import registry
from kdbench.commands.cli import app
from kdbench.errors import NotApplicable
from kdbench.method import Batch, Method, Network, Output, Shapes
from kdbench.registry import applies
from kdbench.registry.applies import OFFERS, exceptions, reason, tasks_of
from kdbench.registry.catalogue import entries


def trait(name: str = "mine", needs: tuple[str, ...] = (), reads_logits: bool = True) -> Any:
    return SimpleNamespace(info=SimpleNamespace(name=name), needs=frozenset(needs), reads_logits=reads_logits)


def test_a_method_applies_where_all_that_it_needs_is_offered() -> None:
    assert tasks_of(trait()) == ["image", "text", "translation"]
    assert tasks_of(trait(needs=("maps",))) == ["image"]
    assert tasks_of(trait(needs=("features",))) == ["image", "text"]
    assert tasks_of(trait(needs=("tokens", "attentions"))) == ["text"]
    assert tasks_of(trait(needs=("detector",), reads_logits=False)) == ["detection"]
    assert tasks_of(trait(reads_logits=False)) == list(OFFERS)


def test_a_reason_names_the_method_and_what_is_missing() -> None:
    assert reason(trait(needs=("strong_view",)), "text") == "mine needs strong view, which no network for text offers"
    assert "mine reads logits" in reason(trait(), "detection")
    assert reason(trait(needs=("no such thing",)), "of somebody else") == ""


def test_methods_of_images_apply_to_images_and_student_to_everything() -> None:
    assert tasks_of(registry.get("student")) == list(OFFERS)
    for name in ("kd", "dkd", "dist", "dml", "aver_mkd"):
        assert {"image", "text", "translation"} <= {*tasks_of(registry.get(name))}
    assert tasks_of(registry.get("at")) == ["image"]


def test_the_list_from_source_says_the_same() -> None:
    assert {entry.info.name: list(entry.tasks) for entry in entries()} == {
        name: tasks_of(registry.get(name)) for name in registry.names()
    }


def test_exceptions_name_tasks_and_methods_that_are_there() -> None:
    for task, methods in exceptions().items():
        assert task in OFFERS
        for method in methods:
            assert method in registry.names()


def test_a_part_of_a_composition_that_does_not_apply_is_named() -> None:
    with pytest.raises(NotApplicable, match="at needs maps"):
        applies.check(registry.get("kd+at"), "text")


class Plain(Method):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return student.supervised(batch)


Plain.info = SimpleNamespace(name="plain")  # type: ignore[assignment]


def network(classes: int, *offers: str) -> Network:
    made = Network()
    made.name, made.shapes, made.offers = "net", Shapes(classes, 4), frozenset(offers)
    return made


@pytest.mark.parametrize("classes", [0, 1])
def test_a_method_of_the_logits_refuses_what_is_no_distribution_over_classes(classes: int) -> None:
    with pytest.raises(NotApplicable, match="plain reads logits of one choice among classes, but network 'net'"):
        Plain().check_taps([network(classes)])
    Plain().check_taps([network(2)])


def test_what_only_some_networks_of_a_task_offer_is_asked_of_the_network() -> None:
    class Attentive(Plain):
        needs = frozenset({"attentions"})

    with pytest.raises(NotApplicable, match="plain needs attentions, which network 'net' does not offer"):
        Attentive().check_taps([network(2, "tokens")])
    Attentive().check_taps([network(2, "attentions")])


def test_the_loss_of_the_labels_is_the_cross_entropy() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    batch = Batch(torch.empty(4, 0), targets, torch.arange(4))
    terms = Output(logits, torch.empty(4, 0)).supervised(batch, 0.1)
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    assert terms.keys() == {"ce"}
    assert torch.equal(terms["ce"], expected)


def test_a_check_on_a_task_that_a_method_does_not_apply_to_is_one_sentence() -> None:
    for words, sentence in (
        (["pkd", "--task", "text"], "pkd needs detector, which no network for text offers"),
        (["kd", "--task", "txt"], "unknown task 'txt': did you mean 'text'?"),
    ):
        said = CliRunner().invoke(app, ["check", *words])
        assert str(said.exception) == sentence

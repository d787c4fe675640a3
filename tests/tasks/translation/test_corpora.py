"""A corpus that a teacher writes: in order, once, in parts, resumed after a kill, and never half."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.suites.corpus import RULES, Corpus
from kdbench.suites.grid import Cell, DatasetSpec, MethodSpec, Pair, TeacherSpec
from kdbench.tasks.translation import toy
from kdbench.tasks.translation.data.pairs import Pair as Sentences
from kdbench.tasks.translation.decoding import Hypothesis, decode_sorted
from kdbench.tasks.translation.task import TranslationTask
from kdbench.tasks.translation.written import best_first
from kdbench.training import corpora
from kdbench.training.corpora import Corpora, Written

pytestmark = pytest.mark.xdist_group("text")
CPU = Numerics(torch.device("cpu"))
PART = 2  # of 21 sources: eleven parts, so that part 10 would come before part 2 by name


class Killed(BaseException):
    """Ends the process, as far as code can tell."""


class Copyist(TranslationTask):
    """A task whose teacher copies: each hypothesis is the source's own number, whatever is decoded beside it."""

    def write(self, corpus: Corpus, teacher: Network, seed: int, start: int, stop: int) -> list[Any]:
        self.asked: list[int] = [*getattr(self, "asked", []), start]
        if start == getattr(self, "dies_at", None):
            raise Killed
        sources = list(range(start, stop))

        def decode(places: list[int]) -> list[list[Hypothesis]]:
            return [[Hypothesis((sources[place], rank), 0.0) for rank in range(corpus.drawn)] for place in places]

        lengths = [[0] * (1 + source * 7 % 5) for source in sources]
        return [
            [[f"{each.tokens[0]} {each.tokens[1]}", each.score] for each in row]
            for row in decode_sorted(lengths, decode, budget=1)
        ]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Copyist:
    monkeypatch.setattr(corpora, "PART", PART)
    made = Copyist.of(toy.data(), 16, CPU)
    assert isinstance(made, Copyist)
    return made


def cell(seed: int = 0, method: str = "mhd", **hyperparameters: Any) -> Cell:
    pair = Pair(TeacherSpec(toy.TEACHER), toy.STUDENT)
    spec = MethodSpec(method, hyperparameters)
    return Cell("suite", DatasetSpec("toy", "translation"), pair, spec, seed, toy.RECIPE, (toy.RECIPE,))


def get(folder: Path, task: TranslationTask, corpus: Corpus | None = None, told: list[str] | None = None) -> Written:
    corpus = corpus or Corpus("beam", 2, taken=2)
    tell = [].append if told is None else told.append
    return Corpora(folder, tell).get(cell(), corpus, Network(), "0" * 64, task, CPU)


def test_each_target_belongs_to_its_source(tmp_path: Path, task: Copyist) -> None:
    written = get(tmp_path, task)
    assert [[text for text, _ in row] for row in written.rows] == [[f"{n} 0", f"{n} 1"] for n in range(21)]
    assert len(list(tmp_path.glob("*/part_*.json"))) == 11
    assert written.record["result"]["hypotheses"] == 42


def test_it_is_written_once(tmp_path: Path, task: Copyist) -> None:
    first = get(tmp_path, task)
    asked = list(task.asked)
    assert get(tmp_path, task) == first
    assert task.asked == asked == list(range(0, 21, 2))
    get(tmp_path, task, Corpus("beam", 2, taken=1))  # what is taken of it is no matter
    get(tmp_path, task, Corpus("beam", 2, choice="reference"))
    assert task.asked == asked
    get(tmp_path, task, Corpus("beam", 3))
    assert len(list(tmp_path.iterdir())) == 2


def test_killed_it_goes_on_and_ends_with_the_same(tmp_path: Path, task: Copyist) -> None:
    whole = get(tmp_path / "whole", task)
    task.asked, task.dies_at = [], 12
    with pytest.raises(Killed):
        get(tmp_path / "killed", task)
    assert not list((tmp_path / "killed").glob("*/record.json"))
    task.asked, task.dies_at = [], None  # type: ignore[assignment]
    resumed = get(tmp_path / "killed", task)
    assert task.asked == list(range(12, 21, 2))
    assert resumed.rows == whole.rows
    assert resumed.record["sha256"] == whole.record["sha256"]
    assert resumed.record["id"] == whole.record["id"]
    seconds = [json.loads(path.read_text())["seconds"] for path in (tmp_path / "killed").glob("*/part_*.json")]
    assert resumed.record["cost"]["seconds"] == pytest.approx(sum(seconds))


@pytest.mark.parametrize("damage", ["gone", "half", "another", "swapped"])
def test_a_part_that_is_not_what_was_written_is_written_again(tmp_path: Path, task: Copyist, damage: str) -> None:
    before = get(tmp_path, task)
    parts = sorted(tmp_path.glob("*/part_*.json"))
    if damage == "gone":
        parts[3].unlink()
    elif damage == "half":
        parts[3].write_text(parts[3].read_text()[:40])
    elif damage == "another":
        parts[3].write_text(parts[3].read_text().replace("6 0", "9 0"))
    else:
        parts[3].write_text(parts[4].read_text())
    task.asked, told = [], list[str]()
    assert get(tmp_path, task, told=told).rows == before.rows
    assert task.asked == [6]
    assert any("is not what was written" in sentence for sentence in told)
    assert get(tmp_path, task).rows == before.rows


def test_a_teacher_that_leaves_a_source_out_is_an_error(tmp_path: Path, task: Copyist, monkeypatch: Any) -> None:
    monkeypatch.setattr(Copyist, "write", lambda *_: [])
    with pytest.raises(KDBenchError, match="wrote 0 answers to 2 sources"):
        get(tmp_path, task)


def test_the_id_names_all_that_decides_the_text(task: Copyist) -> None:
    def config(one: Cell, corpus: Corpus, sha256: str = "1") -> Any:
        return Corpora.config(one, corpus, sha256, task, CPU)

    beam, drawn = Corpus("beam", 2), Corpus("nucleus", 2)
    assert config(cell(0), beam) == config(cell(1), beam)
    assert config(cell(0), drawn) != config(cell(1), drawn)
    assert config(cell(), beam, "2") != config(cell(), beam)
    assert config(cell(), Corpus("beam", 2, {"length_penalty": 0.6})) != config(cell(), beam)
    assert config(cell(), Corpus("beam", 2, {"length_penalty": 1.0})) == config(cell(), beam)


def test_cells_form_cohorts_by_what_they_train_on() -> None:
    assert cell().cohort == cell(label_smoothing=0.2).cohort == cell(hypotheses=5).cohort
    assert cell(method="seq_kd", beams=10).cohort not in (cell().cohort, cell(method="kd").cohort)
    assert cell(hypotheses=3).cohort != cell().cohort
    assert cell(method="kd").cohort == cell(method="student").cohort == cell(method="word_kd").cohort
    assert cell(method="seq_kd+word_kd").cohort == cell(method="seq_kd").cohort
    assert cell(method="seq_kd").config["method"].get("teachers") is None  # it sees one, though not in its steps


def test_a_method_whose_corpus_cannot_be_is_at_fault_before_anything_trains() -> None:
    assert "did you mean 'nucleus'" in cell(rule="nucleos").fault
    assert "11 of 10 hypotheses cannot be taken" in cell(hypotheses=11).fault
    with pytest.raises(KDBenchError, match="each train on a corpus of their own"):
        cell(method="seq_kd+mhd").fault  # noqa: B018


@pytest.mark.parametrize(
    ("rule", "options"),
    [("top_k", {"top_k": 0}), ("nucleus", {"top_p": 0.0}), ("nucleus", {"top_p": 1.5}), ("mbr", {"pool": 1}),
     ("diverse", {"diversity": -1.0}), ("beam", {"length_penalty": "long"}), ("beam", {"top_k": 3})],
)  # fmt: skip
def test_options_that_no_rule_has_are_refused(rule: str, options: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"of the decoding rule '{rule}'"):
        Corpus(rule, 1, options)


def test_every_rule_has_its_defaults() -> None:
    for rule, settings in RULES.items():
        assert Corpus(rule).written == {"rule": rule, "drawn": 1, **settings}
    with pytest.raises(KDBenchError, match="greedy decoding has one hypothesis"):
        Corpus("greedy", 2)
    with pytest.raises(KDBenchError, match="a pool of 30 samples has no 31 hypotheses"):
        Corpus("mbr", 31)


# ------------------------------------------------------------------------------------------------ what is taken

PAIRS = [Sentences("one", "the bank"), Sentences("two", "a long river"), Sentences("three", "x")]
DRAWN = [["a bank", "the bank", "the bank"], ["a river", "", "a long lake"], ["", "", ""]]


def test_the_first_are_taken_and_copies_stay_and_are_counted() -> None:
    chosen, _, counts = best_first(PAIRS, DRAWN, Corpus("beam", 3, taken=3))
    assert [pair[:2] for pair in chosen] == [
        ("one", "a bank"), ("one", "the bank"), ("one", "the bank"), ("two", "a river"), ("two", "a long lake"),
    ]  # fmt: skip
    assert counts == {"duplicates": 1, "empty": 4}
    chosen, _, counts = best_first(PAIRS, DRAWN, Corpus("beam", 3, taken=1))
    assert [pair.target for pair in chosen] == ["a bank", "a river"]
    assert counts == {"duplicates": 0, "empty": 1}


def test_by_the_reference_the_most_alike_is_taken_beside_the_rules_first() -> None:
    chosen, firsts, _ = best_first(PAIRS, DRAWN, Corpus("beam", 3, choice="reference"))
    assert [pair.target for pair in chosen] == ["the bank", "a long lake"]
    assert [pair.target for pair in firsts] == ["a bank", "a river"]
    assert [pair.source for pair in chosen] == [pair.source for pair in firsts] == ["one", "two"]


def test_equally_good_ones_stay_in_the_rules_order_and_no_overlap_is_never_preferred() -> None:
    pairs = [Sentences("one", "the old bank")]
    chosen, *_ = best_first(pairs, [["q r s", "the bank", "old bank"]], Corpus("beam", 3, choice="reference"))
    assert chosen[0].target != "q r s"
    chosen, *_ = best_first(pairs, [["q r s", "t u"]], Corpus("beam", 2, choice="reference"))
    assert chosen[0].target == "q r s"


def test_a_teacher_in_training_mode_is_none_of_the_tasks(tmp_path: Path) -> None:
    """What is written is the same as long as the network is in eval mode, whatever its students' modes."""
    task = toy.toy(CPU)
    teacher = task.network(toy.TEACHER).requires_grad_(False).eval()
    corpus = Corpus("beam", 2)
    torch.manual_seed(0)
    once = task.write(corpus, teacher, 0, 0, 5)
    torch.manual_seed(1)
    assert task.write(corpus, teacher, 0, 0, 5) == once
    assert dataclasses.replace(corpus, taken=2).written == corpus.written

"""`crd+kd`: terms of several methods for one student."""

from __future__ import annotations

import pytest
import torch
from support.goldens import batch, output

from kdbench import KDBenchError, registry
from kdbench.registry.digest import source_digest
from kdbench.suites.parse import load, narrow
from kdbench.testing.checks import CHECKS
from kdbench.testing.trial import Bench


def test_a_composition_adds_the_terms_of_its_parts_and_takes_the_labels_once() -> None:
    maps = [torch.rand(8, 4, 4, 4, dtype=torch.float64) for _ in range(2)]
    student, teacher = (output(torch.randn(8, 10).double(), [maps[i]]) for i in range(2))
    at, kd = (registry.create(name).loss(batch(), student, teacher) for name in ("at", "kd"))
    both = registry.create("at+kd").loss(batch(), student, teacher)
    assert both == {**at, "kd": kd["kd"]}
    assert registry.create("kd+at").loss(batch(), student, teacher) == {**kd, "attention": at["attention"]}


def test_a_parts_hyperparameter_is_set_by_its_name() -> None:
    method = registry.create("at+kd", {"kd.temperature": 2.0, "at.weight": 7.0})
    assert (method.methods[0].weight, method.methods[1].temperature) == (7.0, 2.0)
    with pytest.raises(KDBenchError, match=r"kd\.temprature.*kd\.temperature"):
        registry.create("at+kd", {"kd.temprature": 2.0})


def test_the_command_lines_settings_reach_a_part_and_the_label_says_so() -> None:
    suite = narrow(load("digits"), methods=["at+kd"], settings=["at+kd.kd.temperature=2"])
    assert [spec.label for spec in suite.methods] == ["at+kd(kd.temperature=2)"]


def test_a_composition_has_the_sources_of_its_parts() -> None:
    digests = {source_digest(registry.get(name)) for name in ("at", "kd", "at+kd", "crd+kd")}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("name", "fidelity"),
    [("crd+at", "official-code"), ("crd+kd", "field-code"), ("fitnet+student", "paper"), ("uhkd+crd", "reconstructed")],
)
def test_a_composition_was_held_against_what_its_weakest_part_was(name: str, fidelity: str) -> None:
    assert registry.get(name).info.fidelity == fidelity


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("kd+kd", "names a method twice"),
        ("kd+dml", "'dml' cannot be a part"),
        ("sskd+kd", "'sskd' cannot be a part"),
        ("aver_mkd+kd", "'aver_mkd' cannot be a part"),
        ("kd+nonsens", "nonsens"),
    ],
)
def test_what_cannot_be_composed_is_refused_by_name(name: str, sentence: str) -> None:
    with pytest.raises(KDBenchError, match=sentence):
        registry.get(name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("composition"))


@pytest.mark.xdist_group("composition")
@pytest.mark.parametrize("title", [title for title in CHECKS if title != "takes compiled networks"])
@pytest.mark.parametrize("method", ["crd+kd", "simkd+at"])
def test_a_composition_keeps_the_contract(bench: Bench, method: str, title: str) -> None:
    CHECKS[title](bench, method)

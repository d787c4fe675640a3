"""The contract of a method, held by every registered one, and what each makes of pairs that do not look alike.

All methods of a setting or pair train as one cohort, once; a group's tests stay in one process (`--dist loadgroup`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, register, registry
from kdbench.testing.checks import CHECKS, PAIRS, SETTINGS, ContractBroken, ignores_its_neighbours, in_setting, on_pair
from kdbench.testing.trial import Bench

METHODS = registry.names("image")
SLOW = {"takes compiled networks"}  # it compiles every student


def of(title: str) -> object:
    """A check as a parameter: it is one group of tests, and those of the plain pair are one together."""
    varied = title.removeprefix("takes ")
    group = varied if varied in (*SETTINGS, *PAIRS) else "plain pair"
    marks = [pytest.mark.xdist_group(group), *([pytest.mark.slow] if title in SLOW else [])]
    return pytest.param(title, id=title, marks=marks)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def trained(bench: Bench) -> set[str]:
    """Which cohorts of all methods have been trained already."""
    return set()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("title", [of(title) for title in CHECKS])
def test_a_method_keeps_the_contract(bench: Bench, trained: set[str], title: str, method: str) -> None:
    varied = title.removeprefix("takes ")
    if title not in trained:
        trained.add(title)
        there = (
            on_pair(bench, varied) if varied in PAIRS else in_setting(bench, varied) if varied in SETTINGS else bench
        )
        interrupted = {"stop_after": 2, "name": "interrupted"} if title == "resumes to the same bits" else {}
        there.run([there.cell(name) for name in METHODS], **interrupted)
    check = CHECKS[title]
    if check is ignores_its_neighbours:  # those of all methods, which trained side by side
        ignores_its_neighbours(bench, method, together="results")
    else:
        check(bench, method)


@pytest.mark.xdist_group("plain pair")
def test_every_method_applies_to_a_pair_of_one_family(bench: Bench) -> None:
    assert {record["status"] for record in bench.run([bench.cell(name) for name in METHODS])} == {"done"}


@pytest.mark.usefixtures("temporary")
def test_a_check_sees_that_others_end_elsewhere_beside_a_method(tmp_path: Path) -> None:
    """A write that nothing counts, after the first batch, whose content is looked at while it trains."""

    @register("sly", family="logits")
    class Sly(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            if len(batch) == 5:
                batch.inputs.data.zero_()
            return {"ce": F.cross_entropy(student.logits, batch.targets)}

    with pytest.raises(ContractBroken, match=r"beside it '\w+' ends at other weights than alone: '.*' differs first"):
        ignores_its_neighbours(Bench(tmp_path), "sly")

"""The contract of a method, held by every registered one, and what each makes of pairs that do not look alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdbench import registry
from kdbench.check import CHECKS, Bench, takes_compiled_networks
from kdbench.records import Record

METHODS = registry.names()
SLOW = {takes_compiled_networks: pytest.mark.slow}  # it compiles two networks

PAIRS: dict[str, dict[str, Any]] = {
    "same widths": {"teacher": "cifar_resnet14", "student": "cifar_resnet8"},
    "other widths": {"teacher": "cifar_resnet8x4", "student": "cifar_resnet8"},
    "other family": {"teacher": "cifar_vgg8", "student": "cifar_shufflenetv2"},
    "other number of stages": {"teacher": "cifar_resnet8", "student": "cifar_mobilenetv2"},
    "ViT to CNN": {"teacher": "test_vit", "student": "test_convnext", "image_size": 64},
    "CNN to ViT": {"teacher": "test_convnext", "student": "test_vit", "image_size": 64},
}


@pytest.mark.parametrize(
    "check", [pytest.param(check, id=check.__name__, marks=SLOW.get(check, ())) for check in CHECKS]
)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_the_contract(tmp_path: Path, method: str, check: Callable[[Bench, str], None]) -> None:
    check(Bench(tmp_path), method)


@pytest.fixture(scope="module")
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """Every method's record on one pair; they train as one cohort, in which each may fail alone."""
    bench = Bench(tmp_path_factory.mktemp("pair"), epochs=6, **PAIRS[request.param])
    return dict(zip(METHODS, bench.run([bench.cell(method) for method in METHODS]), strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("records", PAIRS, indirect=True, scope="module")
def test_a_method_trains_on_a_pair_or_says_why_it_cannot(records: dict[str, Record], method: str) -> None:
    record = records[method]
    assert record["status"] in ("done", "not_applicable"), record["reason"]
    if record["status"] == "not_applicable":
        pair = record["cell"]["student"], record["cell"]["teachers"][0]["network"]
        assert any(repr(network) in record["reason"] for network in pair), record["reason"]


@pytest.mark.parametrize("records", ["same widths"], indirect=True)
def test_every_method_applies_to_a_pair_of_one_family(records: dict[str, Record]) -> None:
    assert {record["status"] for record in records.values()} == {"done"}

"""Ratios of speed inside one run, on the machine at hand: `tox -e bench`.

Read the columns relative to the row they name, never across runs: a cohort beside its methods one by one, and each
method's step beside the plain student's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench import registry
from kdbench.errors import NotApplicable
from kdbench.trial import Bench

SIX = ("student", "kd", "dkd", "fitnet", "at", "simkd")


def train(groups: Sequence[Sequence[str]]) -> None:
    """Train each group of methods as one cohort, from scratch."""
    with TemporaryDirectory() as folder:
        for number, methods in enumerate(groups):
            bench = Bench(Path(folder) / str(number), teacher="cifar_resnet56")
            records = bench.run([bench.cell(method) for method in methods])
            assert all(record["status"] == "done" for record in records)


@pytest.mark.benchmark(group="six methods, cifar_resnet56 -> cifar_resnet8")
@pytest.mark.parametrize("how", ["one cohort", "one by one"])
def test_a_cohort_beside_the_same_methods_one_by_one(benchmark: BenchmarkFixture, how: str) -> None:
    groups = [SIX] if how == "one cohort" else [[method] for method in SIX]
    benchmark.pedantic(train, args=(groups,), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="one step, cifar_resnet14 -> cifar_resnet8, batch 16")
@pytest.mark.parametrize("method", registry.names())
def test_a_step_of_each_method_beside_the_plain_students(
    benchmark: BenchmarkFixture, method: str, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    try:
        learner = bench.learner(bench.cell(method))
    except NotApplicable as reason:
        pytest.skip(str(reason))
    batch = next(iter(learner.data.epoch(0)))
    with torch.no_grad():
        outputs = [teacher(batch.inputs) for teacher in learner.teachers if learner.method.uses_teacher]
    learner.begin_epoch()
    numbers = iter(range(10**9))
    benchmark(lambda: learner.train_step(next(numbers), batch, outputs))

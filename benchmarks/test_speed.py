"""Ratios of speed inside one run, on the machine at hand: `tox -e bench`.

Read the columns relative to the row they name, never across runs: a cohort beside its methods one by one, and each
method's step beside the plain student's.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench import Batch, Network, Output, registry
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


STEP = {"teacher": "cifar_resnet32x4", "student": "cifar_resnet8x4", "num_classes": 100, "image_size": 32}


# what is done once before training is not timed here
ONCE = {"ig_kd": {"ig_steps": 1}, "lshfm": {"bias": "zero"}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The literature's pair at its batch size, with enough samples for a memory bank to cost something."""
    return Bench(tmp_path_factory.mktemp("step"), samples=640, batch_size=64, epochs=240, **STEP)


@pytest.mark.benchmark(group="one step, cifar_resnet32x4 -> cifar_resnet8x4, batch 64; the teachers' passes left out")
@pytest.mark.parametrize("method", registry.names())
def test_a_step_of_each_method_beside_the_plain_students(
    benchmark: BenchmarkFixture, bench: Bench, method: str
) -> None:
    """In its training's last phase, after all ramps."""
    try:
        learner = bench.learner(bench.cell(method, **ONCE.get(method, {})))
    except NotApplicable as reason:
        pytest.skip(str(reason))
    batch = next(iter(learner.data.epoch(0)))
    learner.epoch = learner.recipe.epochs - 1
    learner.begin_epoch()
    with torch.no_grad():
        outputs = [teacher_output(teacher, batch) for teacher in learner.teachers if learner.method.uses_teacher]
    numbers = itertools.count()
    benchmark.pedantic(lambda: learner.train_step(next(numbers), batch, outputs), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="one step, cifar_resnet32x4 -> cifar_resnet8x4, batch 64; the teachers' passes left out")
def test_a_teachers_pass_beside_the_plain_students_step(benchmark: BenchmarkFixture, bench: Bench) -> None:
    learner = bench.learner(bench.cell("kd"))
    batch = next(iter(learner.data.epoch(0)))
    with torch.no_grad():
        benchmark.pedantic(learner.teachers[0], args=(batch.inputs,), rounds=3, warmup_rounds=1)


def teacher_output(teacher: Network, batch: Batch) -> Output:
    output = teacher(batch.inputs)
    return output if batch.strong is None else dataclasses.replace(output, strong=teacher(batch.strong))

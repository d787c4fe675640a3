"""What the engine adds to a step: its loop beside a bare one with the same networks, loss, optimizer and precision.

The bare loop has its batches at hand; the engine makes its own, starts the step's random streams, sums the terms, keeps
the clocks and guards each learner. Everything that it does beyond forward, loss, backward and update counts.
"""

from __future__ import annotations

import time
from itertools import islice

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.paced import Paced, Workshop, synchronize
from benchmarks.profiles import by_engine_function
from benchmarks.setting import Setting

METHODS = ("student", "kd", "fitnet")
# data, steps a round, rounds: the shorter the step, the more of them; each round also begins an epoch
SUITES = {"digits": ("digits", 20, 15), "middle": ("cifar100", 20, 5), "large": ("cifar100", 10, 4)}


class BareLoop:
    """One learner's training without the engine: what is left of a step if nobody else may train beside it."""

    def __init__(self, cohort: Paced, steps: int) -> None:
        (learner,) = cohort.learners
        learner.begin_epoch()
        self.numerics, self.method, self.optimizer = cohort.numerics, learner.method, learner.optimizer
        self.student = learner.calls[0]
        self.teacher = next(iter(cohort.loaded.values())).call if learner.method.uses_teacher else None
        self.batches = list(islice(cohort.data.epoch(0), steps))

    def seconds(self) -> float:
        """The time of one step on each batch."""
        start = time.perf_counter()
        for batch in self.batches:
            with self.numerics.autocast():
                with torch.no_grad():
                    teacher = self.teacher(batch.inputs) if self.teacher else None
                terms = self.method.loss(batch, self.student(batch.inputs), teacher)
            self.optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            self.optimizer.step()
        synchronize(self.numerics.device)
        return time.perf_counter() - start


@pytest.mark.benchmark(group="the engine beside a bare loop")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("suite", SUITES)
def test_the_engine_beside_a_bare_loop(
    benchmark: BenchmarkFixture, setting: Setting, workshop: Workshop, suite: str, method: str
) -> None:
    """The bare loop runs before each round, so that a drift of the machine's speed meets both."""
    dataset, steps, rounds = SUITES[suite]
    teacher, student = {
        "digits": (setting.small_teacher, setting.small_student),
        "middle": (setting.middle_teacher, setting.middle_student),
        "large": (setting.teacher, setting.student),
    }[suite]
    if setting.rounds == 1:
        steps, rounds = 1, 1
    bare = BareLoop(workshop.cohort([method], teacher, student, dataset=dataset), steps)
    engine = workshop.cohort([method], teacher, student, dataset=dataset)
    engine.steps(1)  # the first one measures memory
    bare.seconds()
    bare_seconds: list[float] = []
    about = {"suite": suite, "pair": f"{teacher} -> {student}", "method": method, "steps": steps}
    benchmark.extra_info |= {**about, "bare_seconds": bare_seconds}
    setup = lambda: bare_seconds.append(bare.seconds())  # noqa: E731  (what pedantic takes must return None)
    benchmark.pedantic(engine.steps, args=(steps,), setup=setup, rounds=rounds)
    benchmark.extra_info["profile"] = by_engine_function(engine.steps, steps)

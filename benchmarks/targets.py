"""What the benchmark promises of its speed, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks import figures
from benchmarks.figures import Results

# at least these ratios
OVER_REFERENCE, OVER_ALONE = 8.0, 1.8
# at most these
METHOD_STEP, OVERHEAD, OVERHEAD_DIGITS, DRIFT, FLOOR = 1.3, 0.03, 0.10, 0.05, 4.0


@dataclass(frozen=True)
class Target:
    """Attributes: key: for the template's reasons; measured: in words; reached: None where nothing was measured."""

    key: str
    what: str
    wanted: str
    measured: str = "not measured in this run"
    reached: bool | None = None

    @property
    def verdict(self) -> str:
        return {True: "reached", False: "**short**", None: "-"}[self.reached]


def targets(results: Results) -> list[Target]:
    return [*_six(results), *_steps(results), *_overhead(results), *_growth(results), *_floor(results)]


def _six(results: Results) -> Iterator[Target]:
    six = figures.six(results)
    for key, what, wanted in (
        ("reference", "six methods in a cohort, over the same six as the peers run them", OVER_REFERENCE),
        ("alone", "six methods in a cohort, over the same six one by one in kdbench", OVER_ALONE),
    ):
        if six is None:
            yield Target(key, what, f"at least {wanted:g} times as fast")
            continue
        ratio = six.over_reference if key == "reference" else six.over_alone
        yield Target(key, what, f"at least {wanted:g} times as fast", f"{ratio:.2f} times", ratio >= wanted)


def _steps(results: Results) -> Iterator[Target]:
    steps = figures.steps(results)
    alone, own, whole = (figures.middle(steps.alone), figures.middle(steps.own), steps.whole) if steps else [None] * 3
    for key, what, ratio in (
        ("step", "a method's own step over the plain student's, median over methods", alone),
        ("own", "the same within one cohort of all methods", own),
        ("whole", "the whole step of that cohort, a method, over the plain student's own", whole),
    ):
        target = Target(key, what, f"at most {METHOD_STEP:g}")
        if ratio is not None:
            target = replace(target, measured=f"{ratio:.2f}", reached=ratio <= METHOD_STEP)
        yield target


def _overhead(results: Results) -> Iterator[Target]:
    found = figures.overheads(results)
    for key, what, limit in (
        ("overhead", "what the engine adds to a step, CIFAR networks", OVERHEAD),
        ("digits", "what the engine adds to a step, the suite `digits`", OVERHEAD_DIGITS),
    ):
        mine = [one for one in found if (one.suite == "digits") == (key == "digits")]
        worst = max(mine, key=lambda one: one.share, default=None)
        if worst is None:
            yield Target(key, what, f"less than {limit:.0%}")
            continue
        measured = f"at most {worst.share:.1%} ({worst.method}, {worst.pair})"
        yield Target(key, what, f"less than {limit:.0%}", measured, worst.share < limit)


def _growth(results: Results) -> Iterator[Target]:
    sizes = [size for size in figures.growth(results) if size.learners > 1]
    what, wanted = "a learner's own time from 2 to 32 learners a cohort", f"within {DRIFT:.0%}"
    memory = "memory that a learner adds, in what one learner needs"
    if len(sizes) < 2:
        yield from (Target("growth", what, wanted), Target("memory", memory, "1"))
        return
    worst = max(sizes, key=lambda size: abs(size.own_over_smallest - 1))
    measured = f"at most {worst.own_over_smallest - 1:+.1%} (of {worst.learners})"
    yield Target("growth", what, wanted, measured, abs(worst.own_over_smallest - 1) <= DRIFT)
    grows = figures.bytes_by_learner(sizes)
    assert grows is not None
    yield Target("memory", memory, "1", f"{grows:.3f}", abs(grows - 1) < 0.01)


def _floor(results: Results) -> Iterator[Target]:
    found = figures.floor(results)
    for key, what in (
        ("teacher", "a teacher's pass"),
        ("student", "a student's step"),
        ("cohort", "the step of a cohort of six"),
    ):
        text, wanted = f"{what}, in its operations at the machine's rate of matrix products", f"at most {FLOOR:g}"
        part = found.parts.get(key) if found else None
        if part is None:
            yield Target(key, text, wanted)
        else:
            yield Target(key, text, wanted, f"{part.distance:.1f}", part.distance <= FLOOR)

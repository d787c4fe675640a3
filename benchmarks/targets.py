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
# an image of the device's augmentation, in images of the PIL pipeline
IMAGES = 20.0
# the longest wait for the first batch of an epoch, in waits for any other one
WAIT = 2.0
# seconds from a command to its end
START_UP = {"import kdbench": 0.3, "kdbench --help": 1.0, "kdbench list": 1.0, "kdbench run, finished": 5.0}


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
    parts = (_six, _steps, _overhead, _data, _growth, _floor, _start_up)
    return [target for part in parts for target in part(results)]


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
            target = replace(target, measured=f"{ratio:.3f}", reached=ratio <= METHOD_STEP)
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


def _data(results: Results) -> Iterator[Target]:
    what, wanted = "an image augmented on the device, over the PIL pipeline", f"at least {IMAGES:g} times as fast"
    ways = {row.about["way"]: row for row in results.rows("images augmented", view="as it is")}
    if {"pil", "kdbench"} <= ways.keys():
        ratio = ways["pil"].median / ways["kdbench"].median
        yield Target("images", what, wanted, f"{ratio:.1f} times", ratio >= IMAGES)
    else:
        yield Target("images", what, wanted)
    what = "the wait for an epoch's first batch, over that for any other, images streamed"
    waits = {row.about["when"]: row.median for row in results.rows("the wait for a batch")}
    if {"within an epoch", "at its end"} <= waits.keys():
        ratio = waits["at its end"] / waits["within an epoch"]
        yield Target("wait", what, f"at most {WAIT:g}", f"{ratio:.2f}", ratio <= WAIT)
    else:
        yield Target("wait", what, f"at most {WAIT:g}")


def _start_up(results: Results) -> Iterator[Target]:
    measured = {row.about["what"]: row.median for row in results.rows("start-up")}
    for command, limit in START_UP.items():
        what, wanted = f"`{command}`", f"less than {limit:g} s"
        took = measured.get(command)
        if took is None:
            yield Target(command, what, wanted)
        else:
            yield Target(command, what, wanted, f"{took:.2f} s", took < limit)


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

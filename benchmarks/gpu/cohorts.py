"""kdbench's own loop on CIFAR-100's size: a batch of a cohort of six and of one of all methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from torch import Tensor

from benchmarks.cifar import write_cifar100
from benchmarks.gpu import bench
from benchmarks.gpu.bits import streams
from benchmarks.gpu.scale import FULL
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.timing import busy, peak_of
from benchmarks.gpu.training import NO_GRAPHS, WARM, has_graphs
from benchmarks.paced import Paced, Workshop
from benchmarks.setting import FULL as SETTING
from benchmarks.setting import TOY as TOY_SETTING
from kdbench.hardware.numerics import Numerics
from kdbench.training.weights import digest_of

STEPS = 10
PLAIN = "as they are"
GUARDS = {"guards looked at": False, "guards passed over": True}


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """The small cohort as it is and as graphs; all methods as they are."""
    yield f"six, {PLAIN}", partial(as_graphs, sheet, "six", 0)
    yield from graph_steps(sheet, "six")
    yield f"all, {PLAIN}", partial(as_graphs, sheet, "all", 0)


def graph_steps(sheet: Sheet, which: str) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    if has_graphs(sheet.numerics):
        for count in sheet.scale.graphs:
            yield f"{which}, {streams(count)}", partial(as_graphs, sheet, which, count)
    else:
        yield f"{which}, {NO_GRAPHS}", lambda: [{"way": NO_GRAPHS, "learners": 0, "equal": None}]


def guard_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield from ((way, partial(compiled, sheet, way)) for way in GUARDS)


PART = Part("cohorts", "a batch of a whole cohort, as `kdbench run` trains it", steps)
WHOLE = Part("whole_cohorts", "the same of all methods, as graphs", lambda sheet: graph_steps(sheet, "all"))
COMPILED = Part("guards", "the cohort of six, compiled, in its second epoch", guard_steps)


@contextmanager
def workshop(sheet: Sheet) -> Iterator[Workshop]:
    """With generated files of CIFAR-100's format and size."""
    scale, assistants = sheet.scale, (SETTING if sheet.scale == FULL else TOY_SETTING).assistants
    with TemporaryDirectory(dir=sheet.work) as folder, pytest.MonkeyPatch.context() as patch:
        data = Path(folder) / "data"
        write_cifar100(data, scale.train_samples, scale.test_samples, patch)
        yield Workshop(Path(folder), data, scale.batch, assistants, epochs=40)


def as_graphs(sheet: Sheet, which: str, count: int) -> list[Row]:
    """A cohort whose steps are as they are (0) or graphs on so many streams, uncompiled."""
    names = sheet.scale.cohort if which == "six" else bench.methods(sheet.scale)
    plain = dataclasses.replace(sheet.numerics, compile=False, verdicts=(), graphs=count)
    way, part = streams(count) if count else PLAIN, sheet.parts.get(PART.name, {})
    first = part.get(f"{which}, {PLAIN}", {}).get("rows", []) if count else []
    return [timed(sheet, names, plain, way, first)]


def compiled(sheet: Sheet, way: str) -> list[Row]:
    """In the second epoch, from which on a compiled student's guards may be passed over."""
    backend = "inductor" if sheet.scale == FULL else "aot_eager"
    numerics = dataclasses.replace(
        sheet.numerics, compile=True, verdicts=(), backend=backend, skip_guards=GUARDS[way]
    )  # fmt: skip
    return [timed(sheet, sheet.scale.cohort, numerics, way, sheet.rows(COMPILED.name), second_epoch=True)]


def timed(
    sheet: Sheet, names: Sequence[str], numerics: Numerics, way: str, first: Sequence[Row], second_epoch: bool = False
) -> Row:
    """A batch of a cohort.

    Args:
        first: the row of the way whose bits should be reached; empty if it is this one.
    """
    scale, device = sheet.scale, numerics.device
    batches = scale.train_samples // scale.batch
    with workshop(sheet) as shop, peak_of(device) as peak:
        made = shop.cohort(names, scale.teacher, scale.student, numerics)
        made.timed = False
        for _ in range(-(-(WARM + 1) // batches)):
            made.steps(min(WARM + 1, batches))
        if second_epoch:
            made.go_to(1)
            made.steps(1)
        made.own_seconds()
        count = min(STEPS, batches - 1)
        spent = made.seconds(count)
        own = sum(made.own_seconds().values()) / (1 + count)
        shares, learners = kernels_of(made, 1e3 * spent), len(made.learners)
        captured = sum(not learner.uncaptured for learner in made.learners) if numerics.graphs else 0
        students = digest_of({str(n): t for n, t in enumerate(tensors(made))})[:12]
    return {
        "way": way,
        "learners": learners,
        "as graphs": captured,
        "ms a batch": 1e3 * spent,
        "learner-steps/s": learners / spent,
        # on several streams a learner's clock counts what others do beside it
        "own ms a learner": None if numerics.graphs > 1 else 1e3 * own / learners,
        **shares,
        "peak_mb": peak.mb,
        "students": students,
        "equal": first[0]["students"] == students if first else None,
    }


def tensors(made: Paced) -> list[Tensor]:
    return [tensor for each in made.learners for student in each.students for tensor in student.state_dict().values()]


def kernels_of(made: Paced, ms: float) -> dict[str, float | None]:
    """Of an epoch's second batch: what two have more than one."""
    device = made.numerics.device
    one, two = (busy(partial(made.steps, count), device, ms) for count in (1, 2))
    found = {}
    for key, value in two.items():
        less = one[key]
        found[key] = None if value is None or less is None else value - less
    return found

"""From pytest-benchmark's results to the figures of the report: ratios of medians, each None where it was not measured.

A ratio against something that was timed before each round (`beside`) is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.setting import SIX, SMALLEST


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Attributes:
        seconds: of each round.
        about: what the benchmark says of itself (`extra_info`).
    """

    seconds: tuple[float, ...]
    about: dict[str, Any]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def step(self) -> float:
        """Seconds of one training step."""
        return self.median / self.about["steps"]

    def over(self, beside: Sequence[float]) -> float:
        return median(ours / theirs for ours, theirs in zip(self.seconds, beside, strict=True))


class Results:
    """A results file.

    Attributes:
        machine, commit: as pytest-benchmark writes them.
        date: of the run, `YYYY-MM-DD`.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self.machine: dict[str, Any] = content.get("machine_info", {})
        self.commit: dict[str, Any] = content.get("commit_info", {})
        self.date = str(content.get("datetime", ""))[:10]
        self._groups: dict[str, list[Row]] = {}
        for entry in content.get("benchmarks", []):
            row = Row(tuple(entry["stats"]["data"]), entry["extra_info"])
            self._groups.setdefault(entry["group"], []).append(row)

    @classmethod
    def read(cls, path: Path) -> Results:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def rows(self, group: str, **about: Any) -> list[Row]:
        """The benchmarks of a group that say this of themselves."""
        rows = self._groups.get(group, [])
        return [row for row in rows if all(row.about.get(key) == value for key, value in about.items())]

    @cached_property
    def precision(self) -> str:
        """The automatic one."""
        return str(self.machine.get("kdbench", {}).get("numerics", {}).get("precision", "fp32"))


# ---------------------------------------------------------------------------------------------------- six in one cohort


@dataclass(frozen=True)
class Six:
    """Seconds of one step of all six methods.

    Attributes:
        reference: as the peers run them, the mean of before and after kdbench's turn.
        alone, cohort: in kdbench one by one and together, by how: `"bf16, compiled"`, `"bf16"`, `"fp32"`; what kdbench
            chooses comes first.
        by_method: each method's (reference, alone as kdbench chooses).
    """

    reference: float
    alone: dict[str, float]
    cohort: dict[str, float]
    by_method: dict[str, tuple[float, float]]

    @property
    def automatic(self) -> str:
        return next(iter(self.cohort))

    @property
    def over_reference(self) -> float:
        return self.reference / self.cohort[self.automatic]

    @property
    def over_alone(self) -> float:
        return self.alone[self.automatic] / self.cohort[self.automatic]

    @property
    def factors(self) -> list[tuple[str, float]]:
        """What each of them saves; their product is `over_reference`."""
        reasons = {"fp32": "the loop: data, memory format, no meters that wait", "bf16": "the precision"}
        slower, factors = self.reference, []
        for how, seconds in reversed(self.alone.items()):
            factors.append((reasons.get(how, "compiled networks"), slower / seconds))
            slower = seconds
        return [*factors, ("sharing", self.over_alone)]


def six(results: Results) -> Six | None:
    def steps(side: str, **about: Any) -> dict[str, float]:
        return {row.about.get("method", ""): row.step for row in results.rows("six methods", side=side, **about)}

    ways = list(dict.fromkeys(row.about["how"] for row in results.rows("six methods", side="cohort")))
    before, after = steps("reference", when="before"), steps("reference", when="after")
    theirs = {method: (before[method] + after[method]) / 2 for method in before.keys() & after.keys()}
    alone = {how: steps("alone", how=how) for how in ways}
    if not ways or any(len(times) != len(SIX) for times in (theirs, *alone.values())):
        return None
    cohort = {how: sum(steps("cohort", how=how).values()) for how in ways}
    by_method = {method: (theirs[method], alone[ways[0]][method]) for method in SIX}
    return Six(sum(theirs.values()), {how: sum(times.values()) for how, times in alone.items()}, cohort, by_method)


# ------------------------------------------------------------------------------------------------------- each method


@dataclass(frozen=True)
class Steps:
    """Costs in steps of the plain student.

    Attributes:
        alone: each method's step, measured by itself; without the teachers' passes.
        own: the same within the cohort of all methods; empty where that was not measured.
        whole: the whole step of that cohort, a method.
        teachers: whose passes that holds.
    """

    student: float
    alone: dict[str, float]
    own: dict[str, float]
    whole: float | None
    teachers: int


def steps(results: Results, plain: str = "student") -> Steps | None:
    rows = results.rows("one step of each method, the teachers' passes left out")
    if not rows:
        return None
    student = median(second for row in rows for second in row.about["student_seconds"])
    alone = {row.about["method"]: row.over(row.about["student_seconds"]) for row in rows}
    together = results.rows("one step of all methods in one cohort")
    if not together or plain not in together[0].about["own_seconds"]:
        return Steps(student, alone, {}, None, 0)
    (row,) = together
    base, seconds = row.about["own_seconds"][plain], row.about["own_seconds"]
    own = {method: second / base for method, second in seconds.items()}
    return Steps(student, alone, own, row.median / len(own) / base, row.about["teachers"])


def middle(ratios: dict[str, float], plain: str = "student") -> float | None:
    """The median over the methods beside the plain student."""
    others = [ratio for method, ratio in ratios.items() if method != plain]
    return median(others) if others else None


# --------------------------------------------------------------------------------------------------------- the engine


@dataclass(frozen=True)
class Overhead:
    """What the engine adds to one method's step.

    Attributes:
        bare: seconds of the bare loop's step.
        share: what is added, in bare steps.
        profile: seconds a step by function of the engine.
    """

    suite: str
    pair: str
    method: str
    bare: float
    share: float
    profile: list[tuple[str, float]]


def overheads(results: Results) -> list[Overhead]:
    found = []
    for row in results.rows("the engine beside a bare loop"):
        about, bare = row.about, row.about["bare_seconds"]
        names = {key: about[key] for key in ("suite", "pair", "method")}
        profile = [(place, seconds) for place, seconds in about["profile"]]
        found.append(Overhead(**names, bare=median(bare) / about["steps"], share=row.over(bare) - 1, profile=profile))
    return found


# ------------------------------------------------------------------------------------------------------------- growth


@dataclass(frozen=True)
class Size:
    """A cohort of so many learners; seconds are of one learner's step.

    Attributes:
        whole: with its share of the batch and the teacher.
        own: of its own part.
        whole_over_smallest, own_over_smallest: the same over the smallest cohort's, measured in turns; over what the
            smallest one measures against itself, since who goes second finds the machine otherwise.
        bytes: of all tensors that came with the cohort.
        bytes_of_one: what one learner needs.
    """

    learners: int
    whole: float
    own: float
    whole_over_smallest: float
    own_over_smallest: float
    bytes: int
    bytes_of_one: int


def growth(results: Results) -> list[Size]:
    sizes = []
    for row in results.rows("cost against the size of a cohort"):
        about = row.about
        mine, beside = (list(zip(*about[key], strict=True)) for key in ("cell_seconds", "smallest_cell_seconds"))
        whole, own = (median(seconds) for seconds in mine)
        whole_over, own_over = (
            median(x / y for x, y in zip(*pair, strict=True)) for pair in zip(mine, beside, strict=True)
        )
        sizes.append(Size(about["learners"], whole, own, whole_over, own_over, about["bytes"], about["bytes_of_one"]))
    control = next((size for size in sizes if size.learners == SMALLEST), None)
    if control is not None:
        sizes = [
            replace(
                size,
                whole_over_smallest=size.whole_over_smallest / control.whole_over_smallest,
                own_over_smallest=size.own_over_smallest / control.own_over_smallest,
            )
            for size in sizes
        ]
    return sorted(sizes, key=lambda size: size.learners)


def bytes_by_learner(sizes: Sequence[Size]) -> float | None:
    """By how much memory grows with each learner, in what one learner needs."""
    if len(sizes) < 2:
        return None
    first, last = sizes[0], sizes[-1]
    return (last.bytes - first.bytes) / (last.learners - first.learners) / last.bytes_of_one


# -------------------------------------------------------------------------------------------------------------- floor


@dataclass(frozen=True)
class Part:
    """A part of a step.

    Attributes:
        flops: its operations.
        seconds: what it takes.
        floor: seconds at the machine's rate of matrix products.
        profile: shares of its time by operation.
    """

    what: str
    flops: int
    seconds: float
    floor: float
    profile: list[tuple[str, float]]

    @property
    def distance(self) -> float:
        return self.seconds / self.floor

    @property
    def convolutions(self) -> float:
        """The share of its time that convolutions take, forward and backward."""
        return sum(share for name, share in self.profile if "convolution" in name)


@dataclass(frozen=True)
class Floor:
    """Attributes: rate: of matrix products, operations a second; precision: it is in; parts: by name."""

    rate: float
    precision: str
    parts: dict[str, Part]


def floor(results: Results) -> Floor | None:
    products = results.rows("distance to the floor", what="matrices")
    if not products:
        return None
    rate = max(row.about["flops"] / min(row.seconds) for row in products)
    parts = {}
    for row in results.rows("distance to the floor"):
        what, flops = row.about["what"], row.about["flops"]
        if what != "matrices":
            parts[what] = Part(what, flops, row.median, flops / rate, [tuple(pair) for pair in row.about["profile"]])
    return Floor(rate, products[0].about["precision"], parts) if parts else None


# ------------------------------------------------------------------------------------------------ as one computation


def batched(results: Results, base: str = "one by one") -> list[tuple[str, str, float, float]]:
    """(network, way, seconds, seconds over one by one)."""
    rows = results.rows("six students of one architecture, forward and backward")
    bases = {row.about["network"]: row.median for row in rows if row.about["way"] == base}
    return [
        (row.about["network"], row.about["way"], row.median, row.median / bases[row.about["network"]])
        for row in rows
        if row.about["network"] in bases
    ]

"""The contract of a method, held by running it: `kdbench check`, and the tests over every registered method.

Everything runs on small random images and small networks, in the real training loop. A check finds what an earlier one
has trained: `Bench.run` trains a cell once, so the tests train all methods of a variant as one cohort beforehand.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from kdbench import registry
from kdbench.hardware.numerics import Numerics
from kdbench.method import answer_of, both_views
from kdbench.records import Record
from kdbench.registry.applies import tasks_of
from kdbench.registry.spaces import faults
from kdbench.suites.grid import PLAIN
from kdbench.testing.trial import FP32, Bench, toy_of

# the pairs that a method trains on or gives the reason why it cannot
PAIRS: Mapping[str, Mapping[str, Any]] = {
    "another width": {"teacher": "cifar_resnet8x4", "student": "cifar_resnet8"},
    "another family": {"teacher": "cifar_vgg8", "student": "cifar_shufflenetv2"},
    "another number of stages": {"teacher": "cifar_resnet8", "student": "cifar_mobilenetv2"},
    "ViT to CNN": {"teacher": "test_vit", "student": "test_convnext", "image_size": 64},
    "CNN to ViT": {"teacher": "test_convnext", "student": "test_vit", "image_size": 64},
}
# what every method trains on, beside the plain pair of one family
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "two classes": {"num_classes": 2},
    "a hundred classes": {"num_classes": 100},
    "bf16": {"numerics": {"precision": "bf16"}},
    "compiled networks": {"numerics": {"compile": True, "backend": "aot_eager"}},
}
EPOCHS_OF_PAIRS = 6  # staged methods have a phase a stage


class ContractBroken(Exception):  # noqa: N818  (a verdict)
    """A method broke the contract; the message says how."""


def trains(bench: Bench, method: str) -> None:
    """It trains to the end with finite terms, an odd last batch included."""
    _done(bench.run([bench.cell(method)])[0])


def trains_with(setting: str, bench: Bench, method: str) -> None:
    """It trains under one of `SETTINGS`."""
    trains(in_setting(bench, setting), method)


def in_setting(bench: Bench, setting: str) -> Bench:
    if setting == "compiled networks":
        torch._dynamo.reset()
    changes = dict(SETTINGS[setting])
    if "numerics" in changes:
        changes["numerics"] = dataclasses.replace(bench.numerics, **changes["numerics"])
    return bench.variant(setting, **changes)


def trains_on(pair: str, bench: Bench, method: str) -> str:
    """It trains on one of `PAIRS`, or does not apply and says why (that is returned) by naming one of its networks."""
    bench = on_pair(bench, pair)
    record = bench.run([bench.cell(method)])[0]
    if record["status"] != "not_applicable":
        _done(record)
        return ""
    if not any(repr(network) in record["reason"] for network in (bench.teacher, bench.student)):
        raise ContractBroken(f"its reason for not applying names no network: {record['reason']}")
    return f"not applicable: {record['reason']}"


def on_pair(bench: Bench, pair: str) -> Bench:
    return bench.variant(pair, epochs=EPOCHS_OF_PAIRS, **pairs_of(bench.kind)[pair])


def pairs_of(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """The pairs that a task's methods are tried on beside the plain one, by title."""
    pairs: Mapping[str, Mapping[str, Any]] = PAIRS if kind == "image" else toy_of(kind).PAIRS
    return pairs


def checks_of(kind: str) -> Mapping[str, Callable[[Bench, str], str | None]]:
    """The checks of a task's methods, by title: `CHECKS` without what only images have, and the task's own pairs."""
    if kind == "image":
        return CHECKS
    titles = {f"takes {title}" for title in (*PAIRS, "two classes", "a hundred classes")}
    own = {f"takes {pair}": partial(trains_on, pair) for pair in pairs_of(kind)}
    return {**{title: check for title, check in CHECKS.items() if title not in titles}, **own}


def moves_the_student(bench: Bench, method: str) -> None:
    """A gradient reaches every student parameter that is deployed."""
    cell = bench.cell(method)
    _done(bench.run([cell])[0])
    learner = bench.learner(cell)
    deployed = learner.deployed()
    named = dict(learner.students[0].requires_grad_(True).named_parameters())
    answer = answer_of(deployed.eval()(bench.numerics.place_inputs(bench.task.example())))
    used = torch.autograd.grad(answer.sum(), list(named.values()), allow_unused=True)
    still = [
        name
        for (name, start), gradient in zip(named.items(), used, strict=True)
        if gradient is not None and torch.equal(start, bench.weights["results", cell.id][name])
    ]
    if still:
        raise ContractBroken(f"{len(still)} student parameters never get a gradient, {still[0]!r} first")


def leaves_the_teacher(bench: Bench, method: str) -> None:
    """No gradient reaches a teacher, and no weight or statistic of it changes."""
    cell = bench.cell(method)
    learner = bench.learner(cell)
    before = [{name: tensor.clone() for name, tensor in t.state_dict().items()} for t in learner.teachers]
    learner.begin_epoch()
    for number, batch in enumerate(learner.data.epoch(0)):
        with torch.no_grad():
            strong = batch.strong if learner.wants_strong_view else None
            teachers = learner.teachers if learner.method.uses_teacher else ()
            outputs = [both_views(teacher, batch.inputs, strong) for teacher in teachers]
        learner.train_step(number, batch, outputs)
    for teacher, weights in zip(learner.teachers, before, strict=True):
        for name, tensor in teacher.state_dict().items():
            if not torch.equal(tensor, weights[name]):
                raise ContractBroken(f"teacher tensor {name!r} changed during training")
        if any(parameter.grad is not None or parameter.requires_grad for parameter in teacher.parameters()):
            raise ContractBroken("a gradient reached the teacher")


def resumes_to_the_same_bits(bench: Bench, method: str) -> None:
    """Stopped in its third epoch and started again, it ends at the same weights, to the bit."""
    cell = bench.cell(method)
    _done(bench.run([cell])[0])
    _done(bench.run([cell], stop_after=2, name="interrupted")[0])
    _same(bench, cell.id, "results", "interrupted", "resumed after a stop it ends at other weights")


def ignores_its_neighbours(bench: Bench, method: str, together: str = "together") -> None:
    """Alone and in a cohort it ends at the same weights, to the bit, and so do the others with and without it.

    Args:
        together: the results folder of the cohort.
    """
    cell = bench.cell(method)
    known = registry.names(bench.kind)
    names = dict.fromkeys(name for name in (PLAIN, known[0], known[-1]) if name != method)
    before, *after = others = [bench.cell(name) for name in names]
    _done(bench.run([before, cell, *after], name=together)[1])
    _done(bench.run([cell], name="alone")[0])
    _same(bench, cell.id, "alone", together, "alone it ends at other weights than in a cohort")
    for other in others:
        _done(bench.run([other], name="alone")[0])
        label = other.method.label
        _same(bench, other.id, "alone", together, f"beside it {label!r} ends at other weights than alone")


def owns_its_parameters(bench: Bench, method: str) -> str:
    """What it trains beside the students is its own; layers of a student that it keeps are named, and not counted."""
    learner = bench.learner(bench.cell(method))
    students = {id(parameter) for student in learner.students for parameter in student.parameters()}
    kept = sorted(name for name, parameter in learner.method.named_parameters() if id(parameter) in students)
    return f"keeps layers of the student as its own ({', '.join(kept)}): they are no extra parameters" if kept else ""


def searches_what_it_has(bench: Bench, method: str) -> None:
    """Its search space names its own hyperparameters, holds their defaults, and has values that it takes."""
    for fault in faults(registry.get(method)):
        raise ContractBroken(fault)


CHECKS: Mapping[str, Callable[[Bench, str], str | None]] = {
    "trains": trains,
    "moves the student": moves_the_student,
    "leaves the teacher": leaves_the_teacher,
    "owns its parameters": owns_its_parameters,
    "ignores its neighbours": ignores_its_neighbours,
    "resumes to the same bits": resumes_to_the_same_bits,
    "has a search space": searches_what_it_has,
    **{f"takes {setting}": partial(trains_with, setting) for setting in SETTINGS},
    **{f"takes {pair}": partial(trains_on, pair) for pair in PAIRS},
}


def print_checks(console: Console, method: str, numerics: Numerics = FP32, kind: str = "image") -> bool:
    """Run every check of a task in these numerics, print one line each, and say whether all passed.

    A complaint that was made already is not told again.
    """
    passed, told = True, dict[str, str]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.of(kind, Path(folder), numerics)
        for title, check in checks_of(kind).items():
            try:
                outcome = check(bench, method) or "ok"
            except ContractBroken as error:
                outcome, passed = _once(str(error), title, told), False
            except Exception as error:
                outcome, passed = _once(f"{type(error).__name__}: {error}".splitlines()[0], title, told), False
            console.print(f"{method}: {title}: {outcome}", markup=False, highlight=False, soft_wrap=True)
    return passed


def first_task(method: str) -> str:
    """The first task that a method applies to; images where it applies to none, whose checks then say why."""
    return next(iter(tasks_of(registry.get(method))), "image")


def _once(complaint: str, title: str, told: dict[str, str]) -> str:
    """A complaint, or which check has made it before."""
    first = told.setdefault(complaint, title)
    return complaint if first == title else f"as {first!r}"


def _done(record: Record) -> None:
    if record["status"] != "done":
        raise ContractBroken(f"the cell ended as {record['status'].replace('_', ' ')}: {record['reason']}")


def _same(bench: Bench, identity: str, one: str, other: str, complaint: str) -> None:
    """A cell's weights in two results folders are equal."""
    weights: dict[str, Tensor] = bench.weights[other, identity]
    for key, tensor in bench.weights[one, identity].items():
        if not torch.equal(tensor, weights[key]):
            raise ContractBroken(f"{complaint}: {key!r} differs first")

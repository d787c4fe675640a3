"""A step of each student and a pass of each teacher, in the ways there are to compute it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.timing import busy, milliseconds
from benchmarks.gpu.training import Training, forward, graphed, has_graphs, task_of
from kdbench.training.folding import light

WAYS = ("fp32", "eager", "graph")


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    ways = WAYS if has_graphs(sheet.numerics) else WAYS[:2]
    for name in sheet.scale.students:
        for way in ways:
            yield f"{name} {way}", partial(student, sheet, name, way)


def compiled_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    if sheet.numerics.device.type == "cuda":  # a CPU's are in docs/performance.md
        for name in sheet.scale.students[:2]:
            yield f"{name} compiled", partial(student, sheet, name, "compiled")
            yield f"{name} compiled graph", partial(student, sheet, name, "compiled graph")


def teacher_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for name in sheet.scale.teachers:
        yield name, partial(teacher, sheet, name)


PART = Part("students", "a training step of one student", steps)
COMPILED = Part("compiled_students", "the same, compiled", compiled_steps)
TEACHERS = Part("passes", "a teacher's pass", teacher_steps)


def student(sheet: Sheet, name: str, way: str) -> list[Row]:
    numerics, scale = sheet.numerics, sheet.scale
    if way == "fp32":
        numerics = dataclasses.replace(numerics, precision="fp32")
    numerics = dataclasses.replace(numerics, compile=way.startswith("compiled"), verdicts=())
    made = Training(sheet.work / "students", scale, name, graphed(numerics, int(way.endswith("graph"))))
    ms = milliseconds(made.step, numerics.device, scale.warm, scale.count)
    shares = busy(made.step, numerics.device, ms)
    return [{"network": name, "way": way, "precision": numerics.precision, "steps": made.how, "ms": ms, **shares}]


def teacher(sheet: Sheet, name: str) -> list[Row]:
    """As it is, and as kdbench calls it under bf16."""
    scale, rows = sheet.scale, []
    for way in ("fp32", "folded, bf16"):
        numerics = dataclasses.replace(sheet.numerics, precision="fp32" if way == "fp32" else "bf16", compile=False)
        numerics.apply()
        task = task_of(numerics, scale.batch)
        network = task.network(name).requires_grad_(False).eval()
        if way != "fp32":
            network = light(network, task.example(), numerics).network
        inputs = numerics.place_inputs(torch.randn(scale.batch, 3, 32, 32))
        call = forward(network, numerics, inputs)
        ms = milliseconds(call, numerics.device, scale.warm, scale.count)
        rows.append({"network": name, "way": way, "ms": ms, "images/s": 1e3 * scale.batch / ms})
    return rows

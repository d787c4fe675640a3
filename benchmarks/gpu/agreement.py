"""The first step on the CPU and on the GPU: how far apart are the loss and the gradient?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu import bench
from benchmarks.gpu.sheet import Part, Row, Sheet
from kdbench import NotApplicable
from kdbench.hardware.numerics import Numerics

CPU = Numerics(torch.device("cpu"))


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield from ((name, partial(beside_cpu, sheet, name)) for name in bench.methods(sheet.scale))


def tf32_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    if sheet.numerics.precision == "bf16" or sheet.numerics.device.type == "cpu":
        yield from ((name, partial(with_tf32, sheet, name)) for name in sheet.scale.tf32)


PART = Part("agreement", "the first step in fp32, GPU beside CPU", steps)
TF32 = Part("tf32", "the first gradient under bf16 beside the CPU's in fp32, TF32 off and on", tf32_steps)


def beside_cpu(sheet: Sheet, name: str) -> list[Row]:
    try:
        ours, theirs = (first(sheet, name, n) for n in (Numerics(sheet.numerics.device), CPU))
    except NotApplicable as error:
        return [{"method": name, "status": f"not applicable: {error}"}]
    terms = [abs(ours[0][key] - value) / max(abs(value), 1e-12) for key, value in theirs[0].items()]
    return [{"method": name, "status": "ok", "term": max(terms), "gradient": apart(ours[1], theirs[1])}]


def with_tf32(sheet: Sheet, name: str) -> list[Row]:
    exact = first(sheet, name, CPU)[1]
    off, on = (apart(first(sheet, name, sheet.numerics, tf32)[1], exact) for tf32 in (False, True))
    return [{"method": name, "off": off, "on": on}]


def first(sheet: Sheet, name: str, numerics: Numerics, tf32: bool = False) -> tuple[dict[str, float], Tensor]:
    """The terms of the first step, and the gradient of the first student's parameters in float64."""
    numerics.apply()
    if tf32 and numerics.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    here = bench.bench(Path(sheet.work / "agreement"), sheet.scale, numerics)
    learner = here.learner(here.cell(name))
    learner.peak_memory_mb = 0.0
    learner.begin_epoch()
    bench.step_of(learner)()
    gradients = [p.grad for p in learner.students[0].parameters() if p.grad is not None]
    numerics.apply()
    flat = torch.cat([g.detach().double().cpu().flatten() for g in gradients] or [torch.zeros(1)])
    return {key: float(value) for key, value in learner.sums.items()}, flat


def apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))

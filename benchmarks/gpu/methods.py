"""Every method in its last epoch: does it run, does it wait, what adds in no fixed order, how long is a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu import bench
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.timing import milliseconds
from kdbench import NotApplicable, registry
from kdbench.hardware.determinism import noting
from kdbench.training.footprint import rehearse
from kdbench.training.hooks import first_line
from kdbench.training.machine_faults import is_machines


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield from ((name, partial(looked_at, sheet, name)) for name in bench.methods(sheet.scale))


PART = Part("methods", "every method in its last epoch", steps)


def looked_at(sheet: Sheet, name: str) -> list[Row]:
    """Status, waits and milliseconds of a step; MiB that were rehearsed for the learner, and that its step took."""
    row: Row = {"method": name, "family": registry.get(name).info.family, "status": "ok"}
    sheet.numerics.apply()
    here = bench.bench(sheet.work / "methods", sheet.scale, sheet.numerics)
    unordered: set[str] = set()
    try:
        with noting(unordered):
            learner = here.learner(here.cell(name))
            need = rehearse(learner)
            learner.epoch = learner.recipe.length - 1
            learner.begin_epoch()
            step = bench.step_of(learner)
            for _ in range(3):
                step()
        waits = waits_of(step, sheet.numerics.device)
        ms = milliseconds(step, sheet.numerics.device, 2, max(sheet.scale.count // 5, 1))
    except NotApplicable as error:
        return [{**row, "status": f"not applicable: {error}"}]
    except Exception as error:
        if is_machines(error):
            raise
        return [{**row, "status": f"failed: {first_line(error)}"}]
    total = torch.stack([value.float() for value in learner.sums.values()]).sum()
    if not total.isfinite():
        row["status"] = f"a loss of {float(total)}"
    return [
        {
            **row,
            "waits": waits,
            "unordered": ", ".join(sorted(unordered)),
            "ms": ms,
            "rehearsed_mb": (need.lasting + need.step) / 2**20,
            "peak_mb": learner.peak_memory_mb,
        }
    ]


def waits_of(step: Callable[[], object], device: torch.device) -> int | None:
    """How often the host waits for the device in a step, by torch's own warnings; None on a CPU."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in said)

"""Too little memory splits a cohort and changes no result; an index out of range on the device blames nobody.

`python -m benchmarks.gpu.limits FOLDER DEVICE` is a run that asserts, in a process that is lost with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.bits import ROOT
from benchmarks.gpu.sheet import Part, Row, Sheet
from kdbench import Batch, KDBenchError, Method, Output, register, registry
from kdbench.executors.local import LocalExecutor
from kdbench.hardware import memory
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.suites.grid import Cell
from kdbench.suites.parse import parse
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner

WIDE = "cifar_resnet8x4"  # a student whose weights fill more than an allocator's smallest blocks
SHARE = 0.6  # of what the cohort took when there was enough


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "memory", partial(too_little_memory, sheet)
    yield "assert", partial(asserted, sheet)


PART = Part("limits", "memory that runs out, and a device that is lost", steps)


class Splits:
    """Hears into which parts a cohort was split, and says nothing."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def cohort_split(self, sizes: Sequence[int], reason: str) -> None:
        self.sizes.append(tuple(sizes))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def too_little_memory(sheet: Sheet) -> list[Row]:
    """The same cells twice, the second time with less memory than they take side by side."""
    cells, device = grid(sheet), sheet.numerics.device
    before, least = whole(sheet, cells, "enough", Splits()), Splits()
    with little_memory(device, least):
        after = whole(sheet, cells, "little", least)
    return [
        {
            "what": f"a cohort of {len(cells)} in too little memory",
            "outcome": f"split into {' then '.join(map(str, least.sizes)) or 'nothing'}",
            "as it should be": bool(least.sizes) and before == after,
        }
    ]


def grid(sheet: Sheet) -> list[Cell]:
    """One method with as many weights as learners are wanted."""
    weights = [1.0 - place / 100 for place in range(sheet.scale.together)]
    return parse(
        {
            "name": "limits",
            "seeds": [0],
            "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 8}}}],
            "methods": [{"name": "kd", "kd_weight": weight} for weight in weights],
            "recipe": {"epochs": 1, "batch_size": 64},
            "teacher_recipe": {"epochs": 1},
            "pairs": [{"teacher": "cifar_resnet8", "student": sheet.scale.student if sheet.scale.methods else WIDE}],
        }
    ).cells()


def whole(sheet: Sheet, cells: Sequence[Cell], name: str, listener: Any) -> list[Any]:
    """The curves of all cells, without what was timed."""
    out = sheet.fresh(f"limits-{name}")
    if sheet.numerics.device.type == "cuda":
        memory.release(sheet.numerics.device)  # what is kept for nobody would count as taken
        torch.cuda.reset_peak_memory_stats(sheet.numerics.device)
    LocalExecutor(out, listener, device=str(sheet.numerics.device)).run(cells)
    store = Store(out / "limits")
    return [
        [{k: v for k, v in point.items() if k != "seconds"} for point in store.read(cell.id).get("curve", [])]
        for cell in cells
    ]


@contextmanager
def little_memory(device: torch.device, heard: Splits) -> Iterator[None]:
    """On CUDA a limit of the allocator's, which nothing that is asked beforehand tells of; elsewhere it is pretended:
    no learner finds any before the cohort is split.
    """
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        memory.release(device)
        torch.cuda.set_per_process_memory_fraction(min(SHARE * peak / total, 1.0), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    real = Learner.train_step

    def step(learner: Learner, *arguments: Any) -> None:
        if learner.cell.role == "student" and not heard.sizes:
            raise torch.OutOfMemoryError("out of memory, in pretence")
        real(learner, *arguments)

    with mock.patch.object(Learner, "train_step", step):
        yield


# ------------------------------------------------------------------------------------------ a device that is lost


class Asserts(Method):
    """An index past the classes, from the second epoch on."""

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        past = batch.targets + (1000 if self.epoch > 1 else 0)
        return {"ce": F.nll_loss(student.logits.log_softmax(1).float(), batch.targets) * student.logits[:, past].mean()}


def asserted(sheet: Sheet) -> list[Row]:
    """What such a run says, and for how many of five learners it leaves a record."""
    folder = sheet.fresh("asserts")
    device = sheet.numerics.device
    if device.type != "cuda":
        found = lost(folder, device)
    else:
        words = [sys.executable, "-m", "benchmarks.gpu.limits", str(folder), str(device)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=max(sheet.left(), 1))
        found = json.loads(done.stdout.splitlines()[-1])
    # a CPU raises at once, in the method whose fault it is
    right = found["records"] == (0 if device.type == "cuda" else 3)
    return [{"what": "an index out of range", "outcome": found["said"], "as it should be": right}]


def lost(folder: Path, device: torch.device) -> dict[str, Any]:
    register("asserts", family="logits")(Asserts)
    here = Bench(folder, teacher="cifar_resnet8", epochs=2, image_size=8, numerics=Numerics(device))
    said = ""
    try:
        here.run([here.cell(name) for name in ("student", "asserts", "kd")])
    except KDBenchError as error:
        said = str(error)
    finally:
        registry._METHODS.pop("asserts")  # whoever works on in this process has no method of this name
    records = Store(folder / "results").all()
    failed = [record["reason"] for record in records if record["status"] == "failed"]
    return {"said": said or "; ".join(failed), "records": len(records)}


if __name__ == "__main__":
    print(json.dumps(lost(Path(sys.argv[1]), torch.device(sys.argv[2]))))

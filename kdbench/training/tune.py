"""`kdbench tune`: time each network of a suite plain and compiled on this machine, and keep the verdicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kdbench import tasks
from kdbench.errors import KDBenchError
from kdbench.hardware import heap
from kdbench.hardware.clock import seconds
from kdbench.hardware.compilers import lacking
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Network, Output, Taps
from kdbench.suites.grid import Cell
from kdbench.tasks import Task
from kdbench.training import tuned
from kdbench.training.precision import numerics_of

ROUNDS = 7
GAIN = 1.05  # compiled networks are taken only if they are faster by this: below lies noise, and compiling takes time


def tune(
    console: Console,
    cells: Sequence[Cell],
    folder: Path,
    device: str | None,
    data_root: Path | None,
    threads: int | None = None,
) -> None:
    """Measure what the folder has no verdict on yet, one line each.

    Raises:
        KDBenchError: as `kdbench run` does for a device, data set or network that is not there, or a full disk; and
            where nothing can be compiled.
    """
    measured = tuned.read(folder)
    wanted = _settings(cells, device, threads)
    heap.keep()  # as in a run
    for setting, (cell, numerics) in wanted.items():
        if setting not in measured:
            if why := lacking(numerics.device):
                raise KDBenchError(f"nothing can be compiled on device {str(numerics.device)!r}, nor measured: {why}")
            numerics.apply()
            task = tasks.create(cell.dataset, cell.recipe, numerics, data_root)
            measured[setting] = compare(task, setting, numerics)
            tuned.write(folder, measured)
        found = measured[setting]
        console.print(
            f"{setting.network}, {'forward (frozen)' if setting.frozen else 'forward and backward'}, batch "
            f"{setting.batch_size}, {setting.precision}: {found['plain_ms']:.1f} ms plain, "
            f"{found['compiled_ms']:.1f} ms compiled, {found['compiling_s']:.0f} s to compile: "
            f"{'compiled' if found['compiled'] else 'plain'}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(f"kept in {folder / tuned.FILE}; `kdbench run` goes by it with --compile auto", markup=False)


def _settings(
    cells: Sequence[Cell], device: str | None, threads: int | None
) -> dict[tuned.Setting, tuple[Cell, Numerics]]:
    """What is to be measured, students and the trainings of their teachers among it, with a cell that has it."""
    found: dict[tuned.Setting, tuple[Cell, Numerics]] = {}
    trainings = [cell.training_of(t) for cell in cells for t in cell.teachers if t.weights == "train"]
    for cell in (*cells, *trainings):
        numerics = numerics_of(cell, device, threads=threads)
        for setting in tuned.settings_of(cell, numerics):
            found.setdefault(setting, (cell, numerics))
    return found


def compare(task: Task, setting: tuned.Setting, numerics: Numerics) -> dict[str, Any]:
    """Milliseconds of a step plain and compiled, seconds the first compiled step took, and the verdict."""
    batch = next(iter(task.training_set(0, False).epoch(0)))
    network = task.network(setting.network)
    network.requires_grad_(not setting.frozen).train(not setting.frozen)
    plain, fast = (
        _step(dataclasses.replace(numerics, compile=on, verdicts=()), network, batch, setting) for on in (False, True)
    )
    device = numerics.device
    plain()
    compiling = seconds(fast, device)
    plain()
    # one beside the other, so that what else the machine does meets both
    times = [(seconds(plain, device), seconds(fast, device)) for _ in range(ROUNDS)]
    plain_s, compiled_s = (min(column) for column in zip(*times, strict=True))
    return {
        "plain_ms": 1e3 * plain_s,
        "compiled_ms": 1e3 * compiled_s,
        "compiling_s": compiling,
        "compiled": plain_s > GAIN * compiled_s,
    }


def _step(numerics: Numerics, network: Network, batch: Batch, setting: tuned.Setting) -> Callable[[], object]:
    call: Callable[..., Output] = numerics.compiled(network, setting.batch_size, None if setting.frozen else Taps())

    def forward() -> Output:
        with numerics.autocast():
            return call(batch.inputs)

    def train() -> None:
        forward().answer.sum().backward()
        network.zero_grad(set_to_none=True)
        torch.clear_autocast_cache()

    return torch.no_grad()(forward) if setting.frozen else train

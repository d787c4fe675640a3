"""Learners side by side on one GPU: their steps as graphs on several streams, and in processes of their own.

`python -m benchmarks.gpu.lanes FOLDER NUMBER OF DEVICE PRECISION TOY` is one such process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.batched import WAYS
from benchmarks.gpu.bits import ROOT
from benchmarks.gpu.scale import FULL, TOY
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.timing import milliseconds
from benchmarks.gpu.training import Training, graphed, task_of
from benchmarks.paced import synchronize
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.training.weights import digest_of

EXACT = 20  # steps after which the bits are compared
QUEUED = 10  # steps of a learner between two looks at the clock
TOGETHER = 6  # students of one computation


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for count in sheet.scale.streams:
        yield f"{count} streams", partial(on_streams, sheet, count)
    for count in sheet.scale.numbers_of_processes:
        yield f"{count} processes", partial(as_processes, sheet, count)
    for way in WAYS:
        yield way, partial(as_one, sheet, way)


PART = Part("lanes", "learners of one network side by side", steps)


def learners(sheet: Sheet, count: int, streams: int) -> Training:
    """So many of them, their steps as graphs on so many streams."""
    return Training(sheet.work / "lanes", sheet.scale, sheet.scale.students[0], graphed(sheet.numerics, streams), count)


def on_streams(sheet: Sheet, count: int) -> list[Row]:
    """Steps a second of all learners, and whether they end at the bits of steps as they are, one after the other."""
    together, serial = learners(sheet, count, streams=count), learners(sheet, count, streams=0)
    for made in (together, serial):
        for _ in range(EXACT):
            made.step()
    equal = ends(together) == ends(serial)
    rate = count * steps_a_second(together, sheet.numerics.device, sheet.scale.window)
    found = {"learners": count, "steps": together.how, "learner-steps/s": rate, "equal": equal}
    return [{"way": "graphs on streams", **found}]


def steps_a_second(made: Training, device: torch.device, window: float) -> float:
    """Over so many seconds."""
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < window:
        for _ in range(QUEUED):
            made.step()
        synchronize(device)
        done += QUEUED
    return done / (time.perf_counter() - begin)


def ends(made: Training) -> list[str]:
    return [digest_of(learner.students[0].state_dict()) for learner in made.learners]


def as_processes(sheet: Sheet, count: int) -> list[Row]:
    """The same learners in processes of their own, which wait for one another before they are timed."""
    folder = sheet.fresh(f"processes-{count}")
    numerics, scale = sheet.numerics, sheet.scale
    words = [sys.executable, "-m", "benchmarks.gpu.lanes", str(folder)]
    about = [str(numerics.device), numerics.precision, str(int(scale != FULL))]
    running = [
        subprocess.Popen([*words, str(number), str(count), *about], cwd=ROOT, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(count)
    ]  # fmt: skip
    try:
        said = [child.communicate(timeout=max(sheet.left(), 1)) for child in running]
    finally:
        for child in running:
            if child.poll() is None:
                child.kill()
                child.wait()
    if broken := [errors for child, (_, errors) in zip(running, said, strict=True) if child.returncode]:
        raise KDBenchError(f"a process of {count} failed: {(broken[0].strip().splitlines() or [''])[-1]}")
    found = [json.loads(out.splitlines()[-1]) for out, _ in said]
    rate = sum(each["rate"] for each in found)
    alone = ends(learners(sheet, 1, streams=0))
    equal = all(each["start"] == alone for each in found)
    told = {"learners": count, "steps": found[0]["steps"], "learner-steps/s": rate, "equal": equal}
    return [{"way": "graphs in processes", **told}]


def as_one(sheet: Sheet, way: str) -> list[Row]:
    """Six students as one computation, forward and backward only; its bits depend on how many they are."""
    numerics, scale = sheet.numerics, sheet.scale
    numerics.apply()
    task = task_of(numerics, scale.batch)
    networks: list[nn.Module] = []
    for _ in range(TOGETHER):
        network = task.network(scale.students[0]).core.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats, module.num_batches_tracked = False, None
                module.running_mean = module.running_var = None
        networks.append(network)
    step = WAYS[way](networks, numerics)
    inputs = numerics.place_inputs(torch.randn(scale.batch, 3, 32, 32))
    targets = torch.randint(0, 100, (scale.batch,), device=numerics.device)
    ms = milliseconds(lambda: step(inputs, targets), numerics.device, scale.warm, max(scale.count // 5, 1))
    rate = 1e3 * TOGETHER / ms
    return [{"way": f"{way}, no update", "learners": TOGETHER, "steps": "-", "learner-steps/s": rate, "equal": None}]


def process(words: Sequence[str]) -> dict[str, Any]:
    """One of several processes: ready, wait for the others, then train for so many seconds."""
    folder, number, count, device, precision, toy = words
    numerics, scale = Numerics(torch.device(device), precision), TOY if int(toy) else FULL
    made = Training(Path(folder), scale, scale.students[0], graphed(numerics, 1))
    start = ends(made)
    (Path(folder) / f"ready-{number}").touch()
    while len(list(Path(folder).glob("ready-*"))) < int(count):
        time.sleep(0.01)
    return {"rate": steps_a_second(made, numerics.device, scale.window), "start": start, "steps": made.how}


if __name__ == "__main__":
    print(json.dumps(process(sys.argv[1:])))

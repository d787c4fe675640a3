"""Learners side by side on one GPU: as CUDA graphs on several streams, and as processes of their own.

`python -m benchmarks.gpu.lanes FOLDER NUMBER OF NETWORK DEVICE PRECISION BATCH SECONDS` is one such process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.batched import WAYS
from benchmarks.gpu.bits import ROOT
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.timing import milliseconds
from benchmarks.gpu.training import Training, captured, task_of, training
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


class Lane:
    """One learner's whole step on a stream of its own."""

    def __init__(self, name: str, numerics: Numerics, batch: int, seed: int, stream: Any) -> None:
        self.made: Training = training(name, numerics, batch, seed)
        self._stream, self._device = stream, numerics.device
        self._replay = captured(self.made, numerics.device)

    def step(self) -> None:
        with self._on():
            self._replay()

    def _on(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def lanes(sheet: Sheet, count: int, apart: bool) -> list[Lane]:
    """Learners with seeds of their own; on streams of their own, or all on the present one."""
    numerics = sheet.numerics
    numerics.apply()
    cuda = numerics.device.type == "cuda"
    streams = [torch.cuda.Stream(numerics.device) if cuda and apart else None for _ in range(count)]
    name = sheet.scale.students[0]
    made = [Lane(name, numerics, sheet.scale.batch, seed, stream) for seed, stream in enumerate(streams)]
    synchronize(numerics.device)
    return made


def on_streams(sheet: Sheet, count: int) -> list[Row]:
    """Steps a second of all learners, and whether they end at the bits of learners one after the other."""
    device = sheet.numerics.device
    together, serial = lanes(sheet, count, apart=True), lanes(sheet, count, apart=False)
    for made in (together, serial):
        for _ in range(EXACT):
            for lane in made:
                lane.step()
            if made is serial:
                synchronize(device)
        synchronize(device)
    equal = [ends(lane) for lane in together] == [ends(lane) for lane in serial]
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < sheet.scale.window:
        for _ in range(QUEUED):
            for lane in together:
                lane.step()
        synchronize(device)
        done += QUEUED * count
    spent = time.perf_counter() - begin
    return [{"way": "graphs on streams", "learners": count, "learner-steps/s": done / spent, "equal": equal}]


def ends(lane: Lane) -> str:
    return digest_of(lane.made.network.state_dict())


def as_processes(sheet: Sheet, count: int) -> list[Row]:
    """The same learners in processes of their own, which wait for one another before they are timed."""
    folder = sheet.fresh(f"processes-{count}")
    numerics, scale = sheet.numerics, sheet.scale
    words = [sys.executable, "-m", "benchmarks.gpu.lanes", str(folder)]
    about = [str(numerics.device), numerics.precision, str(scale.batch), str(scale.window)]
    running = [
        subprocess.Popen([*words, str(number), str(count), scale.students[0], *about], cwd=ROOT, text=True,
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
    alone = ends(lanes(sheet, 1, apart=False)[0])
    equal = all(each["start"] == alone for each in found)
    return [{"way": "graphs in processes", "learners": count, "learner-steps/s": rate, "equal": equal}]


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
    return [{"way": f"{way}, no update", "learners": TOGETHER, "learner-steps/s": rate, "equal": None}]


def process(words: Sequence[str]) -> dict[str, Any]:
    """One of several processes: ready, wait for the others, then train for so many seconds."""
    folder, number, count, name, device, precision, batch, window = words
    numerics = Numerics(torch.device(device), precision)
    numerics.apply()
    lane = Lane(name, numerics, int(batch), 0, None)
    synchronize(numerics.device)
    start = ends(lane)
    (Path(folder) / f"ready-{number}").touch()
    while len(list(Path(folder).glob("ready-*"))) < int(count):
        time.sleep(0.01)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < float(window):
        for _ in range(QUEUED):
            lane.step()
        synchronize(numerics.device)
        done += QUEUED
    return {"rate": done / (time.perf_counter() - begin), "start": start}


if __name__ == "__main__":
    print(json.dumps(process(sys.argv[1:])))

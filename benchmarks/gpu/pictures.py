"""A folder of JPEGs that workers read while the GPU trains: processes that were forked after CUDA was started."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.gpu.limits import Splits
from benchmarks.gpu.machine import asked_of_driver
from benchmarks.gpu.sheet import Part, Row, Sheet
from kdbench.executors.local import LocalExecutor
from kdbench.records import Store
from kdbench.suites.parse import parse

EPOCHS = 2
EVERY = 0.2  # seconds between two looks at the power


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "JPEGs", partial(streamed, sheet)


PART = Part("pictures", "a folder of JPEGs", steps)


def streamed(sheet: Sheet) -> list[Row]:
    """The plain student's training; its joules beside the power that the driver tells, times its time."""
    folder = sheet.work / "pictures"
    write(folder, sheet.scale.pictures)
    table = {
        "name": "pictures",
        "seeds": [0],
        "methods": ["student"],
        "datasets": [{"name": f"folder:{folder}"}],
        "recipe": {"epochs": EPOCHS, "batch_size": sheet.scale.batch, "image_size": 64, "evaluate_every": EPOCHS,
                   "augment": ["random_resized_crop", "flip"]},
        "pairs": [{"teacher": "cifar_resnet8", "student": sheet.scale.student}],
        "teacher_recipe": {"epochs": 1},
    }  # fmt: skip
    cells, out = parse(table).cells(), sheet.fresh("streamed")
    with Watts() as watts:
        LocalExecutor(out, Splits(), device=str(sheet.numerics.device)).run(cells)  # type: ignore[arg-type]
    record = Store(out / "pictures").read(cells[0].id)
    if record["status"] != "done":
        return [{"outcome": record["reason"]}]
    cost, watt = record["cost"], watts.median()
    return [
        {
            "outcome": "ok",
            "images/s": sheet.scale.pictures / cost["seconds_per_epoch"],
            "joules": cost["joules_per_epoch"],
            "watts x s": None if watt is None else watt * cost["seconds_per_epoch"],
        }
    ]


def write(folder: Path, count: int) -> None:
    """Noise in two classes; a quarter as many to test on."""
    draws = np.random.default_rng(0)
    for split, images in (("train", count), ("val", max(count // 4, 2))):
        for number in range(images):
            path = folder / split / f"class {number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draws.integers(0, 256, (96, 96, 3), np.uint8)).save(path)


class Watts:
    """The power that `nvidia-smi` tells, again and again while its block runs."""

    def __init__(self) -> None:
        self._seen: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def median(self) -> float | None:
        return statistics.median(self._seen) if self._seen else None

    def _look(self) -> None:
        while not self._over.is_set():
            try:
                self._seen.append(float(asked_of_driver("power.draw")))
            except ValueError:  # nobody tells
                return
            time.sleep(EVERY)

"""Methods on pairs of unlike networks, in kdbench's own contract; and resized maps, twice to the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.gpu import bench
from benchmarks.gpu.sheet import Part, Row, Sheet
from kdbench.testing.checks import PAIRS, trains_on
from kdbench.training.hooks import first_line
from kdbench.training.machine_faults import is_machines
from kdbench.training.weights import digest_of

RESIZED = ("camkd", "cifar_vgg13", "cifar_mobilenetv2")  # a method that resizes maps, and a pair where it must


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "resized maps", partial(resized, sheet)
    for pair in list(PAIRS)[: 1 if sheet.scale.methods else None]:
        yield pair, partial(tried, sheet, pair)


PART = Part("pairs", "unlike networks", steps)


def tried(sheet: Sheet, pair: str) -> list[Row]:
    rows = []
    for name in sheet.scale.pairs:
        here = bench.bench(sheet.work / "pairs", sheet.scale, sheet.numerics)
        try:
            outcome, right = trains_on(pair, here, name) or "ok", True
        except Exception as error:
            if is_machines(error):
                raise
            outcome, right = first_line(error), False
        rows.append({"pair": pair, "method": name, "outcome": outcome, "as it should be": right})
    return rows


def resized(sheet: Sheet) -> list[Row]:
    name, teacher, student = RESIZED
    if sheet.scale.methods:
        teacher = student = sheet.scale.student
    found, folder = [], sheet.fresh("resized")
    for time in ("once", "twice"):
        here = bench.bench(folder, sheet.scale, sheet.numerics, epochs=2)
        here = here.variant(time, teacher=teacher, student=student)
        cell = here.cell(name)
        here.run([cell])
        found.append(digest_of(here.weights["results", cell.id]))
    equal = found[0] == found[1]
    outcome = f"{'equal' if equal else 'other'} bits when it trains again"
    return [{"pair": f"{teacher} -> {student}", "method": name, "outcome": outcome, "as it should be": equal}]

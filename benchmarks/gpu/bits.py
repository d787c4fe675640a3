"""Does a method end at the same bits: in a cohort, alone, in another process, after a stop; compiled, as graphs?

`python -m benchmarks.gpu.bits JOB.json RESULT.json` is one such training in a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu import bench
from benchmarks.gpu.scale import FULL, TOY
from benchmarks.gpu.sheet import Part, Row, Sheet
from benchmarks.gpu.training import NO_GRAPHS, has_graphs
from kdbench.errors import KDBenchError
from kdbench.hardware import determinism
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.training.weights import digest_of

ROOT = Path(__file__).parents[2]
WAYS = ("cohort", "alone", "second process", "resumed")


@dataclass(frozen=True)
class Job:
    """One training of some methods.

    Attributes:
        way: one of `WAYS`.
        ordered: whether kernels that add in a fixed order are asked for.
        graphs: on how many streams steps are replayed as graphs; 0: none are.
        long: with more steps an epoch.
    """

    way: str
    folder: str
    methods: tuple[str, ...]
    device: str
    precision: str
    toy: bool
    compile: bool = False
    ordered: bool = True
    graphs: int = 0
    long: bool = False


def steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "plain", partial(plain, sheet)


def compiled_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for ordered in (True, False):
        yield f"fixed order {'asked for' if ordered else 'not asked for'}", partial(compiled, sheet, ordered)


def graph_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    if has_graphs(sheet.numerics):
        yield "graphs", partial(as_graphs, sheet)
    else:
        yield NO_GRAPHS, lambda: [{"method": "none", "steps": NO_GRAPHS}]


PART = Part("bits", "the final student's bits", steps)
COMPILED = Part("compiled_bits", "the same, compiled: two processes with caches of their own", compiled_steps)

GRAPHS = Part("graph_bits", "the final student's bits, steps as they are and as graphs on streams", graph_steps)


def plain(sheet: Sheet) -> list[Row]:
    """Each method's final student, trained in four ways."""
    names = bench.methods(sheet.scale)
    found = all_of(sheet, {way: job(sheet, way, names) for way in WAYS}, sheet.work / "bits")
    return [
        {"method": name, "student": found["cohort"][name][:12], **{w: agreed(found, w, name) for w in WAYS[1:]}}
        for name in names
    ]


def as_graphs(sheet: Sheet) -> list[Row]:
    """Each method's final student in cohorts whose steps are as they are, and graphs on so many streams."""
    names, folder = bench.methods(sheet.scale), sheet.work / "graph_bits"
    ways = {"cohort": 0, **{streams(count): count for count in sheet.scale.graphs}}
    jobs = {way: job(sheet, "cohort", names, graphs=count, long=True) for way, count in ways.items()}
    found = all_of(sheet, jobs, folder)
    store = Store(folder / list(ways)[-1] / "results")
    how = {record["cell"]["method"]["name"]: ran(record) for record in store.all()}
    return [
        {
            "method": name,
            "student": found["cohort"][name][:12],
            "steps": how[name],
            **{way: agreed(found, way, name) for way in list(ways)[1:]},
        }
        for name in names
    ]


def ran(record: Mapping[str, Any]) -> str:
    """How a record says that its steps ran."""
    if record["status"] != "done":
        return str(record["status"])
    return str(record["provenance"]["numerics"]["cuda_graphs_rule"].rpartition("steps ran ")[2])


def streams(count: int) -> str:
    return f"{count} stream{'s' * (count > 1)}"


def compiled(sheet: Sheet, ordered: bool) -> list[Row]:
    """Two processes that compile for themselves, as two machines would."""
    names = sheet.scale.compiled
    jobs = {w: job(sheet, w, names, compile=True, ordered=ordered) for w in ("cohort", "second process")}
    found = all_of(sheet, jobs, sheet.work / f"compiled-{'ordered' if ordered else 'free'}")
    return [
        {
            "method": n,
            "fixed order": "asked for" if ordered else "not asked for",
            "student": found["cohort"][n][:12],
            "equal": agreed(found, w, n),
        }
        for n in names
        for w in ("second process",)
    ]


def agreed(found: Mapping[str, Mapping[str, str]], way: str, name: str) -> bool:
    """Equal digests; a failure is no agreement, whatever both say."""
    ours, theirs = found[way][name], found["cohort"][name]
    return ours == theirs and (": " not in ours or ours.startswith("not_applicable"))


def job(sheet: Sheet, way: str, names: tuple[str, ...], **options: Any) -> Job:
    numerics = sheet.numerics
    return Job(way, "", names, str(numerics.device), numerics.precision, sheet.scale != FULL, **options)


def all_of(sheet: Sheet, jobs: Mapping[str, Job], folder: Path) -> dict[str, dict[str, str]]:
    """Every job's digests; those that an earlier run has finished are read."""
    results = {way: folder / f"{way}.json" for way in jobs}
    todo = {way: dataclasses.replace(each, folder=str(folder / way)) for way, each in jobs.items()}
    todo = {way: each for way, each in todo.items() if not results[way].exists()}
    for each in todo.values():
        shutil.rmtree(each.folder, ignore_errors=True)  # records of a run that was stopped, but no weights
        Path(each.folder).mkdir(parents=True)
    running = {}
    try:
        for way, each in todo.items():
            if sheet.scale.processes > 1 or (way == "second process" and not each.compile):
                running[way] = start(each, results[way])
        for way, each in todo.items():
            if way not in running:
                results[way].write_text(json.dumps(digests(each)), encoding="utf-8")
        for way, child in running.items():
            _, said = child.communicate(timeout=max(sheet.left(), 1))
            if child.returncode:
                last = said.strip().splitlines()[-1:] or ["it said nothing"]
                raise KDBenchError(f"the process of {way!r} ended with status {child.returncode}: {last[0]}")
    finally:
        for child in running.values():
            if child.poll() is None:
                child.kill()
                child.wait()
    return {way: json.loads(path.read_text(encoding="utf-8")) for way, path in results.items()}


def start(each: Job, result: Path) -> subprocess.Popen[str]:
    """A job in a process of its own, with a cache of compiled graphs of its own."""
    file = result.with_suffix(".job")
    file.write_text(json.dumps(dataclasses.asdict(each)), encoding="utf-8")
    surroundings = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{each.folder}-graphs"}
    if not each.ordered:
        surroundings.pop(determinism.WORKSPACE, None)  # this process has set it
    words = [sys.executable, "-m", "benchmarks.gpu.bits", str(file), str(result)]
    return subprocess.Popen(
        words, cwd=ROOT, env=surroundings, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def digests(each: Job) -> dict[str, str]:
    """By method, the sha256 of its final student, or how its cell ended."""
    backend = "aot_eager" if each.toy else "inductor"
    numerics = Numerics(torch.device(each.device), each.precision, each.compile, backend=backend, graphs=each.graphs)
    scale = TOY if each.toy else FULL
    here = bench.bench(Path(each.folder), scale, numerics, samples=scale.graph_samples if each.long else 0)
    cells = [here.cell(name) for name in each.methods]
    order: AbstractContextManager[Any] = nullcontext()
    if not each.ordered:
        order = mock.patch.object(determinism, "fix_order", return_value=None)
    with order:
        if each.way == "alone":
            records = [here.run([cell])[0] for cell in cells]
        else:
            records = here.run(cells, stop_after=2 if each.way == "resumed" else 0)
    ended = {cell.id: f"{record['status']}: {record['reason']}" for cell, record in zip(cells, records, strict=True)}
    weights = {identity: digest_of(tensors) for (_, identity), tensors in here.weights.items()}
    return {cell.method.name: weights.get(cell.id, ended[cell.id]) for cell in cells}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = digests(Job(**{**given, "methods": tuple(given["methods"])}))
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")

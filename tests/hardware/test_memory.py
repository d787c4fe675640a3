"""A cohort that the device's memory does not hold trains in parts, and nobody sees it in the results."""

from __future__ import annotations

import gc
import io
import random
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from support.outcomes import without_times
from torch import Tensor, nn

from kdbench import Batch, Method, Output, register, registry
from kdbench.commands.progress import Display
from kdbench.executors.local import LocalExecutor
from kdbench.hardware import memory
from kdbench.method import Step
from kdbench.records import Record, Store
from kdbench.suites.grid import Cell
from kdbench.suites.parse import parse
from kdbench.testing import trial
from kdbench.testing.trial import Bench
from kdbench.training.cohort import Cohort
from kdbench.training.footprint import SLACK, _Alive, rehearse
from kdbench.training.learner import Learner

CPU = torch.device("cpu")
SUITE: dict[str, Any] = {
    "name": "tight",
    "seeds": [0],
    "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 4}}}],
    "recipe": {"epochs": 2, "batch_size": 32},
    "teacher_recipe": {"epochs": 1},
    "pairs": [{"teacher": "cifar_resnet8", "student": "cifar_resnet8"}],
}


pytestmark = pytest.mark.usefixtures("temporary")


@pytest.fixture
def splits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The parts of every cohort that a bench splits."""
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr(trial._Silent, "cohort_split", lambda self, parts, reason: sizes.append(tuple(parts)))
    return sizes


def execute(out: Path, cells: list[Cell]) -> tuple[dict[str, Record], str]:
    """Run a suite's cells; its records by method, without times, and what the terminal showed."""
    console = Console(file=io.StringIO(), width=300)
    with Display(console, len(cells), 0) as display, pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.training.saving.EVERY", 0.0)  # from a checkpoint of each epoch the halves go on
        LocalExecutor(out, display, device="cpu").run(cells)
    records = {cell.method.label: Store(out / cell.suite).read(cell.id) for cell in cells}
    shown: Any = console.file
    return {name: without_times(record) for name, record in records.items()}, shown.getvalue()  # type: ignore[misc]


def suite(*methods: Any, **changes: Any) -> list[Cell]:
    return parse({**SUITE, "methods": list(methods), **changes}).cells()


def bytes_of_tensors() -> int:
    return sum(thing.nbytes for thing in gc.get_objects() if issubclass(type(thing), Tensor))


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


# ------------------------------------------------------------------------------------------------------- the estimate


@pytest.mark.parametrize(
    ("method", "student", "size"),
    [
        *((method, "cifar_resnet8", 16) for method in ("student", "kd", "at", "dml", "sskd", "mhkd", "crd", "dkd")),
        *((method, "cifar_mobilenetv2", 16) for method in ("kd", "sskd", "dot")),
        ("kd", "test_vit", 160),
    ],
)
def test_the_estimate_is_at_least_what_a_step_takes_and_less_than_two_and_a_half_times_that(
    tmp_path: Path, method: str, student: str, size: int
) -> None:
    bench = Bench(tmp_path, student, student, image_size=size, epochs=8, samples=32, batch_size=32)
    learner = bench.learner(bench.cell(method, **({"negatives": 16} if method == "crd" else {})))
    need = rehearse(learner)
    measured = []
    for start in (0, *learner.bounds[:-1]):
        learner.epoch, learner.peak_memory_mb = start, None
        learner.begin_epoch()
        batch = next(learner.data.epoch(start))
        with torch.no_grad():
            outputs = [teacher(batch.inputs) for teacher in learner.teachers]
            outputs = [Output(**{**vars(o), "strong": o}) for o in outputs]
        learner.train_step(0, batch, outputs)
        measured.append(learner.peak_memory_mb or 0.0)
    assert 1 <= (need.lasting + need.step) / 2**20 / max(measured) < 2.5


@pytest.mark.xdist_group("text")
@pytest.mark.parametrize(
    ("kind", "method"), [("text", "kd"), ("translation", "seq_kd"), ("detection", "student"), ("detection", "cross_kd")]
)
def test_a_step_of_every_task_is_rehearsed(tmp_path: Path, kind: str, method: str) -> None:
    bench = Bench.of(kind, tmp_path)
    learner = bench.learner(bench.cell(method))
    need = rehearse(learner)
    weights = sum(p.nbytes for p in learner.students[0].parameters())
    assert need.lasting >= 2 * weights
    assert need.step > weights / 10  # the maps of a batch of small networks


@pytest.mark.parametrize("method", ["sskd", "crd"])  # without numbers in its tensors, and with
def test_a_rehearsal_leaves_the_learner_and_the_random_numbers_as_they_were(tmp_path: Path, method: str) -> None:
    bench = Bench(tmp_path)
    learner = bench.learner(bench.cell(method))
    modules = nn.ModuleList([*learner.students, *learner.teachers, learner.method])
    before = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    streams = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[index]
    modes = [module.training for module in modules.modules()]
    rehearse(learner)
    assert all(torch.equal(tensor, before[name]) for name, tensor in modules.state_dict().items())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (np.random.get_state()[1] == streams[1]).all()  # type: ignore[index]
    assert random.getstate() == streams[2]
    assert modes == [module.training for module in modules.modules()]
    assert all(parameter.grad is None for parameter in modules.parameters())
    assert not learner.optimizer.state
    assert learner.epoch == 0


def test_memory_grows_by_what_one_learner_needs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    lasting, peak = {}, {}
    for count in (2, 4, 8):
        cells = [bench.cell("kd", temperature=1.0 + i) for i in range(count)]
        store = Store(tmp_path / str(count))
        cohort = Cohort(cells, bench.task, bench.teachers, store, bench.numerics, trial._Silent(), timed=False)
        cohort.data = cohort._training_set()
        for spec in cells[0].teachers:
            cohort._load_teacher(cells[0], spec)
        with _Alive() as alive:
            learners, waiting = cohort._gather()
            cohort._train_epoch(0, learners)
        assert not waiting
        lasting[count], peak[count] = alive.now, alive.peak
    one = (lasting[4] - lasting[2]) // 2
    assert lasting[8] - lasting[4] == pytest.approx(4 * one, rel=0.01)
    assert peak[8] - peak[4] == pytest.approx(4 * one, rel=0.01)  # the steps follow one another and add nothing
    assert one == pytest.approx(rehearse(learners[0]).lasting, rel=0.01)


# -------------------------------------------------------------------------------------------------- split beforehand

METHODS = ("student", "dml", "sskd", "dkd")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench on which all methods trained side by side."""
    bench = Bench(tmp_path_factory.mktemp("whole"))
    bench.run([bench.cell(method) for method in METHODS])
    return bench


@pytest.mark.parametrize("fitting", [1, 3])
def test_a_cohort_that_would_not_fit_is_split_and_trains_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Bench, splits: list[tuple[int, ...]], fitting: int
) -> None:
    parts = Bench(tmp_path)
    cells = [parts.cell(method) for method in METHODS]
    needs = [rehearse(parts.learner(cell)) for cell in cells[:fitting]]
    lasting = [need.lasting for need in needs]
    enough = sum(lasting) + max(lasting) + SLACK * max(need.step for need in needs)  # and a copy of one, to time it
    monkeypatch.setattr(memory, "available", lambda device: int(enough / memory.SHARE) + 1)
    records = parts.run(cells)
    assert splits[0] == (fitting, len(cells) - fitting)
    for cell, one, other in zip(cells, records, whole.run(cells), strict=True):  # those of `whole` are there
        assert without_times(one) == without_times(other)
        weights = whole.weights["results", cell.id]
        assert all(torch.equal(t, weights[key]) for key, t in parts.weights["results", cell.id].items())


def test_one_learner_always_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: list[tuple[int, ...]]
) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(memory, "available", lambda device: 0)
    records = bench.run([bench.cell(method) for method in ("student", "kd", "at")])
    assert [record["status"] for record in records] == ["done"] * 3
    assert splits == [(1, 2), (1, 1)]


def test_a_device_that_does_not_say_what_is_left_takes_the_whole_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: list[tuple[int, ...]]
) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(memory, "available", lambda device: None)
    bench.run([bench.cell(method) for method in ("student", "kd", "at")])
    assert not splits


def test_the_terminal_says_why_a_cohort_was_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 2**20)
    _, shown = execute(tmp_path, suite("student", "kd"))
    line = next(line for line in shown.splitlines() if "split into" in line)
    assert line.startswith("digits: cifar_resnet8@0, seed 0: cohort of 2 split into 1 + 1: 2 would need about 0.")
    assert line.endswith("of the 0.00 GiB of memory that cpu has for them")


# ---------------------------------------------------------------------------------------------------- caught and halved


class Crowded(Method):
    """Runs out of memory while more than some learners of its kind are alive."""

    alive: ClassVar[weakref.WeakSet[Crowded]] = weakref.WeakSet()
    most: ClassVar[int] = 2
    crowds: ClassVar[list[int]] = []

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = number
        self.alive.add(self)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        self.crowds.append(len(self.alive))
        if self.epoch == 2 and len(self.alive) > self.most:
            out_of_memory()
        return {"ce": F.cross_entropy(student.logits, batch.targets)}


def crowd() -> list[Cell]:
    register("crowded", family="logits")(Crowded)
    return suite("student", *({"name": "crowded", "number": number} for number in range(4)))


@dataclass
class Halved:
    """A run in which no more than two of four crowded learners fitted.

    Attributes:
        crowds: how many were alive at each step.
        epochs: in the order in which they were begun.
    """

    records: dict[str, Record]
    shown: str
    crowds: list[int]
    epochs: list[int]


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Halved:
    epochs: list[int] = []
    real = Cohort._train_epoch
    registry.names()  # all are found before the copy below, which is forgotten

    def watched(self: Cohort, epoch: int, learners: list[Learner]) -> None:
        epochs.append(epoch)
        real(self, epoch, learners)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cohort, "_train_epoch", watched)
        patch.setattr(Crowded, "crowds", [])
        patch.setattr(registry, "_METHODS", dict(registry._METHODS))
        records, shown = execute(tmp_path_factory.mktemp("halved"), crowd())
        return Halved(records, shown, Crowded.crowds, epochs)


def test_a_cohort_that_runs_out_of_memory_is_halved_and_trains_to_the_same_records(
    tmp_path: Path, halved: Halved, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "digits: cifar_resnet8@0, seed 0: cohort of 5 split into 3 + 2: the memory of cpu ran out" in halved.shown
    assert {record["status"] for record in halved.records.values()} == {"done"}
    assert list(dict.fromkeys(halved.crowds)) == [4, 2]
    monkeypatch.setattr(Crowded, "most", 4)
    undivided, shown = execute(tmp_path, crowd())
    assert "split into" not in shown
    assert halved.records == undivided


def test_the_halves_go_on_from_the_last_checkpoints(halved: Halved) -> None:
    assert halved.epochs == [0, *(0, 1), 1, 1]  # the teacher, all together, the halves


def test_nothing_of_a_cohort_that_was_given_up_stays_in_memory(tmp_path: Path) -> None:
    @register("swells", family="features")
    class Swells(Method):
        needs = frozenset({"features"})

        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            first = F.cross_entropy(student.logits, batch.targets)
            last = student.features[0].square()
            last.register_hook(lambda gradient: out_of_memory())  # in the midst of a pass: the rest is still to do
            return {"first": first, "last": last.mean()}

    bench = Bench(tmp_path)
    memory.release(CPU)
    before = bytes_of_tensors()
    with pytest.raises(memory.OutOfMemory):
        bench.run([bench.cell("student"), bench.cell("swells")])
    memory.release(CPU)
    assert bytes_of_tensors() <= before


def test_a_cell_that_does_not_fit_alone_fails_with_a_sentence_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crowded, "most", 0)
    records, _ = execute(tmp_path, crowd())
    assert records.pop("student")["status"] == "done"
    for name, record in records.items():
        assert record["status"] == "failed"
        assert record["reason"] == (
            f"method {name!r} on cifar_resnet8 -> cifar_resnet8 does not fit into the memory of device 'cpu': give the "
            "recipe a batch_size below 32, or take another --device"
        )


def test_running_out_of_memory_within_an_update_leaves_no_half_updated_learner(tmp_path: Path) -> None:
    troubles: list[int] = []

    @register("half_updated", family="logits")
    class HalfUpdated(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            return {"ce": F.cross_entropy(student.logits, batch.targets)}

        def step(self, step: Step) -> Any:
            terms = super().step(step)
            if self.epoch == 2 and troubles:
                troubles.pop()
                with torch.no_grad():
                    next(step.students[0].parameters()).zero_()
                out_of_memory()
            return terms

    cells = suite("half_updated", "kd")
    expected, _ = execute(tmp_path / "undisturbed", cells)
    troubles.append(1)
    assert execute(tmp_path / "disturbed", cells)[0] == expected
    assert not troubles


def test_a_teacher_that_does_not_fit_fails_its_cells_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [{"teacher": f"cifar_{teacher}", "student": "cifar_resnet8"} for teacher in ("resnet14", "resnet8")]
    cells = suite("kd", pairs=pairs)
    real = Cohort._load_teacher
    monkeypatch.setattr(
        Cohort,
        "_load_teacher",
        lambda self, cell, spec: out_of_memory() if "14" in spec.network else real(self, cell, spec),
    )
    execute(tmp_path, cells)
    first, second = (Store(tmp_path / "tight").read(cell.id) for cell in cells)
    assert first["reason"].startswith("teacher cifar_resnet14@0 does not fit into the memory of device 'cpu': give")
    assert second["status"] == "done"


# ------------------------------------------------------------------------------------------------- what the device says


def test_every_allocators_refusal_is_recognised() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert memory.ran_out(refused.value)
    assert memory.ran_out(MemoryError())
    assert memory.ran_out(OSError(12, "Cannot allocate memory"))
    assert memory.ran_out(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    wrapped = ValueError("a checkpoint that cannot be read")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory.")
    assert memory.ran_out(wrapped)
    assert not memory.ran_out(RuntimeError("the size of tensor a (3) must match"))
    assert not memory.ran_out(OSError(28, "No space left on device"))


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path, version: int) -> None:
    lines = {1: "7:cpu,memory:/batch/job\n3:cpuset:/\n", 2: "0::/batch/job\n"}[version]
    root = {1: tmp_path / "memory", 2: tmp_path}[version]
    limit, used, files = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    job = root / "batch" / "job"
    job.mkdir(parents=True)
    for folder, most in ((job, "1000"), (job.parent, "max")):
        (folder / limit).write_text(f"{most}\n")
        (folder / used).write_text("700\n")
        (folder / "memory.stat").write_text(f"anon 500\n{files} 200\n")
    (tmp_path / "own").write_text(lines)
    assert list(memory._of_cgroups(tmp_path, str(tmp_path / "own"))) == [500]
    (tmp_path / "own").write_text(lines.replace("/batch/job", "/elsewhere"))  # as a container sees its host's path
    (root / limit).write_text("900")
    (root / used).write_text("1000")
    assert list(memory._of_cgroups(tmp_path, str(tmp_path / "own"))) == [0]
    assert list(memory._of_cgroups(tmp_path, str(tmp_path / "absent"))) == []


def test_this_machine_has_memory_left() -> None:
    left = memory.available(CPU)
    assert left is None or 2**20 < left < 2**50

"""The contract of a method, held by running it: `kdbench check`, and the tests over every registered method.

Everything runs on small random images and small networks of the CIFAR family, in the real training loop.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from kdbench import registry
from kdbench.cohort import Cohort
from kdbench.device import Numerics
from kdbench.learner import Learner
from kdbench.method import Batch, Network
from kdbench.metrics import classification, group, logits_of
from kdbench.networks import create
from kdbench.records import Record, Store
from kdbench.seeding import derive_seed, seed_all
from kdbench.suite import PLAIN, Cell, DatasetSpec, MethodSpec, Pair, Recipe, TeacherSpec
from kdbench.tasks import Task
from kdbench.teachers import Teachers

TEACHER, STUDENT = "cifar_resnet14", "cifar_resnet8"
FP32 = Numerics(torch.device("cpu"))
# no decay: what moves had a gradient; clipped, since a paper's weight may be too much for an untrained teacher
RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.02, weight_decay=0.0, clip_grad=5.0)


class ContractBroken(Exception):  # noqa: N818  (a verdict)
    """A method broke the contract; the message says how."""


class RandomImages:
    """A training set of random images: the loader's interface without a loader."""

    def __init__(self, samples: int, num_classes: int, seed: int, strong_view: bool, size: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed("random images", num_classes))
        self.images = torch.randn(samples, 3, size, size, generator=generator)
        self.targets = torch.arange(samples) % num_classes
        self.num_classes, self.seed, self.strong_view = num_classes, seed, strong_view
        self.steps_per_epoch = -(-samples // RECIPE.batch_size)

    def __len__(self) -> int:
        return len(self.targets)

    def _batch(self, indices: Tensor) -> Batch:
        images = self.images[indices]
        return Batch(images, self.targets[indices], indices, images.flip(3) if self.strong_view else None)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return map(self._batch, torch.randperm(len(self), generator=generator).split(RECIPE.batch_size))

    def batches(self) -> Iterator[Batch]:
        return map(self._batch, torch.arange(len(self)).split(RECIPE.batch_size))


class RandomTask(Task):
    """Random images for the loop; the last batch of 37 samples holds 5."""

    def __init__(self, numerics: Numerics, num_classes: int = 10, samples: int = 37, image_size: int = 16) -> None:
        self.numerics, self.num_classes, self.samples, self.image_size = numerics, num_classes, samples, image_size
        self.test = self.training_set(seed=0, strong_view=False)

    def training_set(self, seed: int, strong_view: bool) -> RandomImages:
        return RandomImages(self.samples, self.num_classes, seed, strong_view, self.image_size)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        network = create(
            name, num_classes=self.num_classes, in_chans=3, input_size=(3, self.image_size, self.image_size)
        )
        self.numerics.place(network)
        return network

    @torch.no_grad()
    def logits(self, model: Callable[..., object]) -> Tensor:
        assert isinstance(model, nn.Module)
        model.eval()
        return torch.cat([logits_of(model, batch.inputs).float() for batch in self.test.batches()])

    def metrics(self, logits: Tensor, teacher_logits: Tensor | None) -> dict[str, float | None]:
        return classification(logits, self.test.targets, teacher_logits)

    def group(self, members: list[Tensor]) -> dict[str, float]:
        return group(members, self.test.targets)

    def example(self) -> Tensor:
        return torch.zeros(1, 3, self.image_size, self.image_size)


class RandomTeachers(Teachers):
    """Teachers with random weights, one a seed."""

    def load(self, cell: Cell, teacher: TeacherSpec, task: Task) -> Network:
        seed_all("teacher", teacher.network, teacher.seed)
        return task.network(teacher.network).requires_grad_(False).eval()


class _Stop(BaseException):
    """Ends a run between two epochs, as a kill would."""


@dataclass
class _Silent:
    """A listener that says nothing, and may end the run after some epochs."""

    stop_after: int = 0

    def cohort_started(self, cells: Sequence[Cell]) -> None: ...

    def step_done(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if self.stop_after and epoch == self.stop_after:
            raise _Stop

    def epoch_done(self, cell: Cell, epoch: int, scores: dict[str, Any]) -> None: ...

    def cell_ended(self, cell: Cell, status: str, reason: str, scores: dict[str, Any]) -> None: ...


@dataclass
class Bench:
    """One pair on which a method is tried, in a folder of its own.

    Attributes:
        weights: the first student's final weights by cell id, of the cells that were run.
    """

    folder: Path
    teacher: str = TEACHER
    student: str = STUDENT
    num_classes: int = 10
    numerics: Numerics = FP32
    image_size: int = 16
    epochs: int = RECIPE.epochs
    assistants: tuple[str, ...] = ("cifar_resnet8", "cifar_resnet8")

    def __post_init__(self) -> None:
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.task = RandomTask(self.numerics, self.num_classes, image_size=self.image_size)
        self.teachers = RandomTeachers(self.folder / "teachers")

    def cell(self, method: str, **hyperparameters: Any) -> Cell:
        pool = (TeacherSpec(self.teacher), TeacherSpec(self.teacher, seed=1))
        pair = Pair(pool[0], self.student, pool, self.assistants)
        recipe = dataclasses.replace(RECIPE, epochs=self.epochs)
        spec = MethodSpec(method, hyperparameters)
        return Cell("check", DatasetSpec("random"), pair, spec, 0, recipe, (RECIPE, RECIPE))

    def run(self, cells: Sequence[Cell], stop_after: int = 0, name: str = "results") -> list[Record]:
        """Train the cells; with `stop_after`, leave the run after so many epochs and then start it again."""
        store = Store(self.folder / name)
        for listener in (_Silent(stop_after), _Silent()):
            todo = [cell for cell in cells if not store.has(cell.id)]
            try:
                if todo:
                    Cohort(todo, self.task, self.teachers, store, self.numerics, listener, self._keep).run()
            except _Stop:
                continue
        return [store.read(cell.id) for cell in cells]

    def _keep(self, cell: Cell, network: Network) -> None:
        self.weights[cell.id] = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def learner(self, cell: Cell) -> Learner:
        """The cell's learner at its start."""
        teachers = [self.teachers.load(cell, spec, self.task) for spec in cell.teachers]
        return Learner(cell, self.task, self.task.training_set(0, True), self.numerics, teachers)


def trains(bench: Bench, method: str) -> None:
    """It trains to the end with finite terms, an odd last batch included."""
    _done(bench.run([bench.cell(method)])[0])


def moves_the_student(bench: Bench, method: str) -> None:
    """A gradient reaches every student parameter that is deployed."""
    cell = bench.cell(method)
    _done(bench.run([cell])[0])
    learner = bench.learner(cell)
    deployed = learner.deployed()
    named = dict(learner.students[0].requires_grad_(True).named_parameters())
    logits = logits_of(deployed.eval(), bench.task.example())
    used = torch.autograd.grad(logits.sum(), list(named.values()), allow_unused=True)
    still = [
        name
        for (name, start), gradient in zip(named.items(), used, strict=True)
        if gradient is not None and torch.equal(start, bench.weights[cell.id][name])
    ]
    if still:
        raise ContractBroken(f"{len(still)} student parameters never get a gradient, {still[0]!r} first")


def leaves_the_teacher(bench: Bench, method: str) -> None:
    """No gradient reaches a teacher, and no weight or statistic of it changes."""
    cell = bench.cell(method)
    learner = bench.learner(cell)
    before = [{name: tensor.clone() for name, tensor in t.state_dict().items()} for t in learner.teachers]
    learner.begin_epoch()
    for number, batch in enumerate(learner.data.epoch(0)):
        with torch.no_grad():
            outputs = [teacher(batch.inputs) for teacher in learner.teachers if learner.method.uses_teacher]
            if learner.wants_strong_view:
                outputs = [dataclasses.replace(output, strong=output) for output in outputs]
        learner.train_step(number, batch, outputs)
    for teacher, weights in zip(learner.teachers, before, strict=True):
        for name, tensor in teacher.state_dict().items():
            if not torch.equal(tensor, weights[name]):
                raise ContractBroken(f"teacher tensor {name!r} changed during training")
        if any(parameter.grad is not None or parameter.requires_grad for parameter in teacher.parameters()):
            raise ContractBroken("a gradient reached the teacher")


def takes_two_classes(bench: Bench, method: str) -> None:
    """It trains with 2 classes."""
    trains(dataclasses.replace(bench, num_classes=2), method)


def takes_bf16(bench: Bench, method: str) -> None:
    """It trains under autocast to bfloat16."""
    trains(dataclasses.replace(bench, numerics=dataclasses.replace(FP32, precision="bf16")), method)


def takes_compiled_networks(bench: Bench, method: str) -> None:
    """It trains with networks that went through torch.compile."""
    torch._dynamo.reset()
    trains(dataclasses.replace(bench, numerics=dataclasses.replace(FP32, compile=True, backend="aot_eager")), method)


def resumes_to_the_same_bits(bench: Bench, method: str) -> None:
    """Stopped in its third epoch and started again, it ends at the same weights, to the bit."""
    cell = bench.cell(method)
    _done(bench.run([cell])[0])
    straight = bench.weights[cell.id]
    record = bench.run([cell], stop_after=2, name="interrupted")[0]
    _done(record)
    _same(straight, bench.weights[cell.id], "resumed after a stop it ends at other weights")


def ignores_its_neighbours(bench: Bench, method: str) -> None:
    """Alone and in a cohort it ends at the same weights, to the bit."""
    cell = bench.cell(method)
    _done(bench.run([cell])[0])
    alone = bench.weights[cell.id]
    others = [name for name in (PLAIN, registry.names()[0], registry.names()[-1]) if name != method]
    neighbours = [bench.cell(name) for name in dict.fromkeys(others)]
    _done(bench.run([*neighbours[:1], cell, *neighbours[1:]], name="cohort")[1])
    _same(alone, bench.weights[cell.id], "in a cohort it ends at other weights than alone")


CHECKS: tuple[Callable[[Bench, str], None], ...] = (
    trains,
    moves_the_student,
    leaves_the_teacher,
    takes_two_classes,
    takes_bf16,
    takes_compiled_networks,
    resumes_to_the_same_bits,
    ignores_its_neighbours,
)


def print_checks(console: Console, method: str) -> bool:
    """Run every check, print one line each, and say whether all passed."""
    passed = True
    for check in CHECKS:
        try:
            with tempfile.TemporaryDirectory() as folder:
                check(Bench(Path(folder)), method)
            outcome = "ok"
        except ContractBroken as error:
            outcome, passed = str(error), False
        except Exception as error:
            outcome, passed = f"{type(error).__name__}: {error}".splitlines()[0], False
        title = check.__name__.replace("_", " ")
        console.print(f"{method}: {title}: {outcome}", markup=False, highlight=False, soft_wrap=True)
    return passed


def _done(record: Record) -> None:
    if record["status"] != "done":
        raise ContractBroken(f"the cell ended as {record['status'].replace('_', ' ')}: {record['reason']}")


def _same(a: dict[str, Tensor], b: dict[str, Tensor], complaint: str) -> None:
    for name, tensor in a.items():
        if not torch.equal(tensor, b[name]):
            raise ContractBroken(f"{complaint}: {name!r} differs first")

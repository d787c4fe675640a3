"""What a learner will need of the device's memory, from steps that are taken without computing.

A copy of the learner takes a step of each phase, and evaluates a batch, on torch's fake tensors: they have a shape and
a device but no numbers and no memory. The sizes of all tensors that are alive meanwhile are summed, so that whatever a
method does is counted as it is: connectors, several students, views, teachers that run in the step. The learner itself
and the random numbers stay as they were.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdbench.hardware import memory
from kdbench.method import answer_of, both_views
from kdbench.seeding import seeded
from kdbench.training.learner import Learner
from kdbench.training.twins import twin as twin_of

FEW = 4  # samples of a real step, where a method decides by the numbers in its tensors
SLACK = 1.25  # on a step, for what is no tensor: the workspaces of convolutions
GENEROUS = 30  # times the students' step alone; the hungriest method (mhkd, small networks) was seen to take 16


@dataclass(frozen=True)
class Need:
    """Bytes that one learner needs.

    Attributes:
        lasting: while it trains: weights, buffers, gradients, optimizer state.
        step: in addition, for the largest of its steps and evaluations: what is saved for the backward pass, the
            teachers' outputs.
    """

    lasting: int
    step: int


class Room:
    """The memory that a cohort may fill: a share of what is left on the device before its learners are built.

    Each learner keeps its lasting part; steps follow one another, so that the largest counts.
    """

    def __init__(
        self, device: torch.device, guarded: Callable[[Learner, Callable[[], None]], object] | None = None
    ) -> None:
        """Measure what is left now.

        Args:
            guarded: does a learner's rehearsal, which runs its method, and looks at what it did.
        """
        self._guarded = guarded or (lambda learner, rehearsal: rehearsal())
        left = memory.available(device)
        self.device = device
        self.size = None if left is None else int(memory.SHARE * left)
        self._needs: dict[str, Need] = {}
        self._students: dict[tuple[str, ...], float] = {}

    def shortage(self, learners: Sequence[Learner]) -> str:
        """Why these learners do not fit side by side; empty if they do, or if the device does not say what is left."""
        if self.size is None or self._at_most(learners) <= self.size:
            return ""
        needs = [self._need(learner) for learner in learners]
        # one after the other they are timed by a copy (kdbench/training/pace.py)
        total = sum(need.lasting for need in needs) + max(need.lasting for need in needs)
        total += int(SLACK * max(need.step for need in needs))
        if total <= self.size:
            return ""
        need, left = (f"{size / 2**30:.2f} GiB" for size in (total, self.size))
        return f"{len(learners)} would need about {need} of the {left} of memory that {self.device} has for them"

    def _at_most(self, learners: Sequence[Learner]) -> float:
        """What they need unless a method is very hungry: no method is run for it."""
        kept = 4 * sum(_bytes(_tensors(learner)) for learner in learners)  # gradients, and two slots of an optimizer
        for learner in learners:
            if learner.roles not in self._students:
                self._students[learner.roles] = students_alone(learner)
        return kept + GENEROUS * max(self._students[learner.roles] for learner in learners)

    def _need(self, learner: Learner) -> Need:
        identity = learner.cell.id
        if identity not in self._needs:
            self._guarded(learner, lambda: self._needs.update({identity: rehearse(learner)}))
        return self._needs.get(identity, Need(0, 0))


def rehearse(learner: Learner) -> Need:
    """Estimate what a learner needs, before it trains.

    A method that decides by the numbers in its tensors (masks, `.item()`) cannot run without them: a copy of the
    learner then really runs on `FEW` samples, and their part is scaled to the batch.
    """
    with suppress(Exception), _faked(learner) as twin:
        return _run(twin)
    try:
        return _run(twin_of(learner), max(learner.recipe.batch_size // FEW, 1))
    except Exception as error:
        if memory.ran_out(error):
            raise
        return Need(4 * _bytes(_tensors(learner)), 0)  # it may only dislike a batch of zeros: training will tell


def students_alone(learner: Learner) -> float:
    """Bytes of a step and an evaluation of a learner's students without its method; infinite if that cannot be told."""
    with suppress(Exception), _faked(learner) as twin, _Alive() as alive:
        inputs = _inputs(twin, twin.recipe.batch_size)
        with twin.numerics.autocast():
            answers = [student.train()(inputs).answer for student in twin.students]
        torch.stack(answers).sum().backward()
        _evaluate(twin, twin.students[0])
        return alive.peak
    return math.inf


@contextmanager
def _faked(learner: Learner) -> Iterator[Learner]:
    """A copy of fake tensors; what is done with it in this block makes fake tensors only."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        twin = twin_of(learner)
    with mode:
        yield twin


def _run(twin: Learner, scale: int = 1) -> Need:
    """Let a twin take the first step of each phase and evaluate, on batches `scale` times smaller than its own."""
    lasting, step = [], []
    with seeded("rehearsal"):
        for start in (0, *twin.bounds[:-1]):
            twin.epoch = start
            twin.begin_epoch()
            with _Alive() as alive:
                for parameter in twin.trained_parameters():  # the gradients of the step before
                    parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
                before = alive.now
                _train(twin, twin.recipe.batch_size // scale)
                _evaluate(twin, twin.deployed(), scale)
            lasting.append(_bytes(_tensors(twin)))
            step.append(alive.peak - before)
    return Need(max(lasting), scale * max(step))


def _train(twin: Learner, samples: int) -> None:
    inputs = _inputs(twin, samples)
    indices = torch.arange(samples, device=inputs.device)
    strong = inputs.clone() if twin.wants_strong_view else None
    batch = twin.task.blank_batch(inputs, indices % len(twin.data), strong)
    with torch.no_grad(), twin.numerics.autocast():
        teachers = twin.teachers if twin.method.uses_teacher else ()
        outputs = [both_views(teacher, inputs, strong) for teacher in teachers]
    twin.train_step(0, batch, outputs)


def _evaluate(twin: Learner, deployed: nn.Module, scale: int = 1) -> None:
    """A batch of the test set; a loader's may be larger than those of the training set."""
    samples = getattr(twin.data, "test_batch_size", twin.recipe.batch_size)
    with torch.no_grad(), twin.numerics.autocast():
        answer_of(deployed.eval()(_inputs(twin, samples // scale)))


def _inputs(twin: Learner, samples: int) -> Tensor:
    example = twin.task.example()
    return twin.numerics.place_inputs(example.repeat(samples, *[1] * (example.dim() - 1)))


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on, for as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self._count(storage.nbytes())
                weakref.finalize(storage, self._count, -storage.nbytes())
        return made

    def _count(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def _tensors(learner: Learner) -> list[Tensor]:
    """What a learner keeps from step to step."""
    modules = nn.ModuleList([*learner.students, learner.method])
    parameters = list(modules.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    state = [value for slots in learner.optimizer.state.values() for value in slots.values()]
    return [t for t in (*parameters, *modules.buffers(), *gradients, *state) if isinstance(t, Tensor)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    """The size of tensors, what two of them share counted once."""
    return sum({storage: storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}.values())

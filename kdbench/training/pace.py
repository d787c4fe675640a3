"""How long a learner's steps take beside those of the plain student, whenever and beside whomever it trains.

Seconds of different hours cannot be divided: a machine that others use is now fast, now slow. So at the start of each
of its phases a copy of the learner takes a few steps in turns with a plain student that is made for it, each right
after the other, on the same batch. The copies are then thrown away: nothing of the learner, its method, the teachers,
the data or the random numbers is other than without. A teacher's forward pass belongs to the step of a method that uses
it, as it would without a cohort; making the batch does not, since it is everybody's alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kdbench.hardware import memory
from kdbench.hardware.clock import seconds
from kdbench.method import Batch, Output
from kdbench.records.lock import turn
from kdbench.seeding import seeded
from kdbench.suites.grid import PLAIN, Cell, MethodSpec
from kdbench.training.guard import held_in
from kdbench.training.hooks import first_line
from kdbench.training.learner import Learner
from kdbench.training.machine_faults import is_machines
from kdbench.training.twins import twin

FEWEST, MOST = 3, 10  # pairs of a phase; more would tell a median little
SHARE = 0.02  # of a phase's steps, at most: what the pairs may take

Teaching = Callable[[Batch], Output]


@dataclass
class Pace:
    """Times the learners of one cohort at the start of an epoch.

    Attributes:
        plain: the scratch students, by what decides their step.
    """

    plain: dict[str, Learner] = field(default_factory=dict)

    @staticmethod
    def wanted(learner: Learner) -> bool:
        """Whether the phase that a learner is in has not been timed yet; a teacher's is a plain student's."""
        timed = {entry["phase"] for entry in learner.step_times}
        return learner.cell.role == "student" and learner.phase_index not in timed

    def measure(self, learner: Learner, batch: Batch, teachers: Sequence[Teaching]) -> None:
        """Time the phase that a learner is in; what goes wrong leaves a reason in place of the numbers.

        Args:
            batch: on the device.
            teachers: the learner's, as the cohort calls them.
        """
        index = learner.phase_index
        entry: dict[str, Any] = {"phase": index, "share": learner.phases[index].share}
        try:
            with seeded("pace"), turn(f"timing-{learner.numerics.device}"):
                entry |= self._pairs(learner, batch, teachers)
        except Exception as error:
            if is_machines(error):
                raise
            full = memory.ran_out(error)
            # the real step, which comes next, says what is wrong with a method
            entry["reason"] = "no memory was left to time it" if full else f"it could not be timed: {first_line(error)}"
            if full:
                self.plain.clear()
                memory.release(learner.numerics.device)
        learner.step_times.append(entry)

    def _pairs(self, learner: Learner, batch: Batch, teachers: Sequence[Teaching]) -> dict[str, list[float]]:
        if not learner.wants_strong_view:  # another learner of the cohort may
            batch = dataclasses.replace(batch, strong=None)
        mine, plain = _copied(learner), self._plain(learner)

        def own() -> None:
            with torch.no_grad(), learner.numerics.autocast():
                outputs = [teacher(batch) for teacher in teachers]
            mine.train_step(0, batch, outputs)

        def students() -> None:
            plain.train_step(0, dataclasses.replace(batch, strong=None), ())

        own()  # the first steps choose kernels and make the optimizer's state
        students()
        device, times = learner.numerics.device, dict[str, list[float]](student=[], own=[])
        for _ in range(pairs(learner)):
            times["student"].append(seconds(students, device))
            times["own"].append(seconds(own, device))
        return times

    def _plain(self, learner: Learner) -> Learner:
        """A plain student as the learner's own first one, in its first epoch."""
        cell = learner.cell
        key = f"{cell.pair.student} {cell.recipe}"
        if key not in self.plain:
            spec = Cell(cell.suite, cell.dataset, cell.pair, MethodSpec(PLAIN), cell.seed, cell.recipe, role=cell.role)
            self.plain[key] = Learner(spec, learner.task, learner.data, learner.numerics, ())
            self.plain[key].peak_memory_mb = 0.0
            self.plain[key].begin_epoch()
        return self.plain[key]


def pairs(learner: Learner) -> int:
    """How many pairs of steps the learner's phase is timed by."""
    steps = learner.phase_epochs * learner.recipe.steps(learner.epoch, learner.data.steps_per_epoch)
    return min(max(int(SHARE * steps), FEWEST), MOST)


def _copied(learner: Learner) -> Learner:
    """A twin that shares what is the cohort's: teachers, task and data."""
    # a method may hold a teacher, a layer of one, or what the data set stores
    shared: list[object] = [part for teacher in learner.teachers for part in _parts(teacher)]
    shared += [held.tensor for root in (learner.data, learner.task) for held in held_in(root, "")]
    other = twin(learner, shared)
    other.compile_students()
    return other


def _parts(network: nn.Module) -> Iterator[object]:
    yield from network.modules()
    yield from network.parameters()
    yield from network.buffers()

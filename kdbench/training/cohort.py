"""The training loop.

A cohort is the cells that share data, teachers and seed. They train side by side: each batch is made once, every
teacher runs on it once, then each learner takes its own step. Four properties hold, each
tested in tests/training/test_cohort.py:

1. a cell's result does not depend on who trains beside it, to the bit: a learner shares nothing but the batch and the
   frozen teachers' outputs, which it must leave as they are (kdbench/training/guard.py), and every step starts its
   random stream from (seed, epoch, step) alone;
2. for one seed, all methods see the same initial student, batches and augmentations;
3. a learner fails alone: its record says why, the others go on; only when memory runs out all stop, and whoever runs
   the cohort starts it again in smaller parts (kdbench/executors/local.py);
4. the process may be killed at any instruction: the same command goes on from each learner's last checkpoint, an
   epoch or 30 seconds old at most, whichever is more.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from kdbench import records
from kdbench.errors import KDBenchError, NotApplicable, explained_absence
from kdbench.hardware import heap, memory
from kdbench.hardware.clock import Clock
from kdbench.hardware.determinism import noting
from kdbench.hardware.energy import EnergyMeter
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Output
from kdbench.seeding import derive_seed
from kdbench.suites.grid import Cell, TeacherSpec
from kdbench.tasks import Task, TrainingSet
from kdbench.training.corpora import Corpora
from kdbench.training.folding import light
from kdbench.training.footprint import Room
from kdbench.training.guard import Shared, Spoiled, Tampered
from kdbench.training.hooks import Misbehaved, first_line
from kdbench.training.layouts import told
from kdbench.training.learner import Learner
from kdbench.training.listener import Listener
from kdbench.training.machine_faults import fault_of
from kdbench.training.pace import Pace
from kdbench.training.passes import Passes
from kdbench.training.provenance import provenance
from kdbench.training.resume import resumed
from kdbench.training.saving import Saving
from kdbench.training.steps import steps_of
from kdbench.training.teachers import Teacher, Teachers


@dataclass
class Cohort:
    """Train the cells of one cohort and leave a record of each.

    Attributes:
        cells: cells with the same `Cell.cohort`, none of them done.
        store: where checkpoints and records go.
        keep: called with a finished learner before the record is written; the digest of what it keeps goes into the
            record.
        timed: whether steps are timed beside a plain student's; trials of a method do without.
        after_epoch: called at each epoch's end with the learners that trained in it and with those that are not
            finished; what it raises ends the cohort there, with all of them saved.
        every: seconds between a learner's checkpoints, at least; None: as `kdbench.training.saving` has it.
        held_out: the task whose data they train on and whose score ends it, where the recipe stops early.
    """

    cells: Sequence[Cell]
    task: Task
    teachers: Teachers
    store: records.Store
    numerics: Numerics
    listener: Listener
    keep: Callable[[Learner], str | None] | None = None
    loaded: dict[TeacherSpec, Teacher] = field(default_factory=dict)
    timed: bool = True
    strong_data: TrainingSet | None = None
    shared: Shared = field(default_factory=Shared)
    taught: dict[str, Any] = field(default_factory=dict)  # of the corpus that a teacher wrote for them
    after_epoch: Callable[[Sequence[Learner], Sequence[Learner]], None] | None = None
    every: float | None = None
    held_out: Task | None = None

    def __post_init__(self) -> None:
        self._passes = Passes(self.cells[0].recipe)
        self._saving, self._steps = Saving(self.store, self.every), steps_of(self.numerics)

    def run(self) -> list[Cell]:
        """Train cells to their end, from wherever an earlier run left them: as many as fit into the device's memory.

        Returns:
            the cells that did not fit beside the others, which are to train after them.

        Raises:
            OutOfMemory: if even these did not fit. Their last checkpoints are where another run goes on.
            Spoiled: if one of them changed what all share; likewise, with a task loaded anew.
        """
        self.listener.cohort_started(self.cells)
        self.numerics.apply()
        if self.numerics.device.type == "cpu":
            heap.keep()
        for cell in self.cells:
            if cell.role == "student":
                for spec in cell.teachers:
                    with self._in_memory(f"teacher {spec}", alone=True):
                        self._load_teacher(cell, spec)
        with self._in_memory(f"data set {self.cells[0].dataset.name!r}", alone=True):
            self.data = self._training_set()
        with self._in_memory(_title(self.cells[0]) if len(self.cells) == 1 else f"a cohort of {len(self.cells)} cells"):
            learners, waiting = self._gather()
            with closing(self._passes), self._saving:
                self._train(learners)
        return waiting

    def _gather(self) -> tuple[list[Learner], list[Cell]]:
        """Learners of the first cells, as many as the device's memory is likely to hold, and the cells that wait."""
        room, learners = Room(self.numerics.device, self._rehearsed), list[Learner]()
        self.shared.keep_data(self.data, self.task)
        self.shared.begin()
        for place, cell in enumerate(self.cells):
            self._guard(cell, partial(self._join, cell, learners))
            if len(learners) > 1 and learners[-1].cell is cell and (shortage := room.shortage(learners)):
                learners.pop()
                self.listener.cohort_split((len(learners), len(self.cells) - place), shortage)
                return learners, list(self.cells[place:])
        return learners, []

    def _rehearsed(self, learner: Learner, rehearsal: Callable[[], None]) -> None:
        self._guard(learner.cell, rehearsal)

    def _train(self, learners: list[Learner]) -> None:
        # a finished one whose record is gone again (somebody deletes the folder) is not trained any further
        while learners := [each for each in learners if not (each.finished or self.store.has(each.cell.id))]:
            epoch = min(learner.epoch for learner in learners)
            # after a kill some may be an epoch ahead of the others: they wait
            running = [learner for learner in learners if learner.epoch == epoch]
            self._train_epoch(epoch, running)
            if self.after_epoch:
                ran = [learner for learner in running if learner.epoch > epoch]
                with self._saving.all_if_it_ends():
                    self.after_epoch(ran, [each for each in learners if not self.store.has(each.cell.id)])

    # ------------------------------------------------------------------------------------------ one epoch

    def _train_epoch(self, epoch: int, learners: list[Learner]) -> None:
        after = self.shared.after_step
        active = [learner for learner in learners if self._guard(learner.cell, learner.begin_epoch, after)]
        suspects = list(active)
        batch_clock = Clock(self.numerics.device)
        teacher_clocks = {spec: Clock(self.numerics.device) for spec in self.loaded}
        meter = EnergyMeter(self.numerics.device)
        strong = any(learner.wants_strong_view for learner in active)
        recipe = self.cells[0].recipe
        steps = recipe.steps(epoch, self.data.steps_per_epoch)
        for number, batch in enumerate(_timed(self._batches(epoch, strong), batch_clock)):
            self._settle(self.shared.weights(), suspects)
            batch, outputs = self._steps.lend(batch, self._run_teachers(batch, active, teacher_clocks))
            self.shared.lend(batch, outputs.values(), thorough=number == 0)
            if number == 0 and self.timed:
                self._time(active, batch)
            for learner in list(active):
                mine = [outputs[spec] for spec in self._teachers_of(learner)]
                step = partial(self._step, learner, number, batch, mine)
                if not self._guard(learner.cell, step, after):
                    active.remove(learner)
            self._steps.join()
            if not active:
                return
            self.listener.step_done(epoch, recipe.length, number + 1, steps)
        batches, teaching = batch_clock.read(), {spec: clock.read() for spec, clock in teacher_clocks.items()}
        watts = meter.watts()
        self.shared.give_back()
        self._settle(self.shared.anywhere(), suspects)
        for learner in active:
            shared = batches + sum(teaching[spec] for spec in self._teachers_of(learner))
            self._guard(learner.cell, partial(self._end_epoch, learner, shared, watts))

    def _time(self, active: list[Learner], batch: Batch) -> None:
        """Time the learners that begin a phase; one that changes what all share meanwhile leaves."""
        pace = Pace()
        for learner in [each for each in active if pace.wanted(each)]:
            teachers = [self.loaded[spec] for spec in self._teachers_of(learner)]
            if not self._guard(learner.cell, partial(pace.measure, learner, batch, teachers), self.shared.after_step):
                active.remove(learner)

    def _batches(self, epoch: int, strong: bool) -> Iterator[Batch]:
        if strong and self.strong_data is None:
            self.strong_data = self._training_set(strong=True)
            self.shared.keep_data(self.strong_data)
            self.shared.begin()
        data = self.strong_data if strong and self.strong_data is not None else self.data
        return self._passes.epoch(data, epoch)

    def _step(self, learner: Learner, number: int, batch: Batch, outputs: list[Output]) -> None:
        with noting(learner.unordered):
            self._steps.take(learner, number, batch, outputs)

    def _run_teachers(
        self, batch: Batch, active: Sequence[Learner], clocks: dict[TeacherSpec, Clock]
    ) -> dict[TeacherSpec, Output]:
        """Every teacher that somebody still uses, once."""
        wanted = dict.fromkeys(spec for learner in active for spec in self._teachers_of(learner))
        outputs = {}
        for spec in wanted:
            with clocks[spec].running(), self.numerics.autocast():
                outputs[spec] = self.loaded[spec](batch)
        return outputs

    def _end_epoch(self, learner: Learner, shared_seconds: float, watts: float | None) -> None:
        first = self.loaded.get(learner.cell.pair.teacher)
        with noting(learner.unordered):
            learner.end_epoch(first.predictions if first else None, shared_seconds, watts)
        self.listener.epoch_done(learner.cell, learner.epoch, learner.curve[-1])
        self._saving.offer(learner)
        if learner.finished:
            self._finish(learner)

    # ------------------------------------------------------------------------------------------ beginning and end

    def _training_set(self, strong: bool = False) -> TrainingSet:
        cell, seed = self.cells[0], derive_seed(self.cells[0].role, self.cells[0].seed, "data")
        source = self.held_out or self.task
        if cell.corpus is None or not source.sources():  # whoever asks for one there is not applicable
            return source.training_set(seed, strong)
        corpora, first = Corpora.beside(self.teachers, self.listener.notice), self.loaded[cell.pair.teacher]
        data, self.taught = corpora.training_set(cell, first, source, self.numerics, seed)
        return data

    def _load_teacher(self, cell: Cell, spec: TeacherSpec) -> None:
        if spec not in self.loaded:
            network = self.teachers.load(cell, spec, self.task)
            predictions, primary = self.task.evaluate(network), self.task.metrics.primary.name
            about = {**self.teachers.describe(cell, spec, network), primary: self.task.scores(predictions)[primary]}
            if spec.sha256:
                self.listener.notice(told(spec, about, self.task.metrics.primary))
            called = light(network, self.task.example(), self.numerics)
            call = self.numerics.compiled(called.network, cell.recipe.batch_size)
            self.loaded[spec] = Teacher(network, call, {**about, **called.about}, predictions)
            self.shared.keep_teacher(str(spec), network)

    def _join(self, cell: Cell, learners: list[Learner]) -> None:
        """Build a learner, put it where an earlier run left it, and add it to the others."""
        teachers = [self.loaded[spec].network for spec in cell.teachers] if cell.role == "student" else []
        build = partial(Learner, cell, self.task, self.data, self.numerics, teachers, self.held_out)
        unordered = set[str]()
        with noting(unordered):
            learner = resumed(build, self.store, self.listener.notice)
        learner.unordered |= unordered
        if learner.finished:  # killed between the last checkpoint and the record
            self._finish(learner)
        learners.append(learner)

    @staticmethod
    def _teachers_of(learner: Learner) -> tuple[TeacherSpec, ...]:
        return learner.cell.teachers if learner.method.uses_teacher else ()

    def _finish(self, learner: Learner) -> None:
        digest = self.keep(learner) if self.keep else None
        about = [self.loaded[spec].about for spec in learner.cell.teachers if spec in self.loaded]
        outcome: dict[str, Any] = {
            "result": learner.result(),
            "cost": learner.cost(),
            "curve": learner.curve,
            "teachers": about,
            **self.taught,
            **({"weights_sha256": digest} if digest else {}),
        }
        ran = replace(self.numerics, unordered=tuple(sorted(learner.unordered)), uncaptured=learner.uncaptured)
        self._write(learner.cell, "done", numerics=ran, **outcome)

    # ------------------------------------------------------------------------------------------ records and failures

    def _in_memory(self, what: str, alone: bool = False) -> AbstractContextManager[None]:
        return memory.explained(what, self.cells[0].recipe.batch_size, self.numerics.device, alone)

    def _guard(self, cell: Cell, work: Callable[[], object], changed: Callable[[], str] | None = None) -> bool:
        """Do one learner's work; what goes wrong in it ends that learner only, with a record that says why.

        Args:
            changed: what of the others' is looked at afterwards; all of it, if nothing is said.
        """
        try:
            with (
                self.shared.kept_by(cell.method.name, changed or self.shared.after_hook),
                self._in_memory(_title(cell)),
            ):
                work()
        except NotApplicable as error:
            self._write(cell, "not_applicable", reason=str(error))
        except KDBenchError:
            raise  # bad input or a full disk concerns the whole run, full memory or changed data the whole cohort
        except Exception as error:
            if fault := fault_of(error, _title(cell)):
                raise fault from error  # it concerns the whole run, and no method is to blame
            own = isinstance(error, Misbehaved)
            told: dict[str, Any] = {"traceback": traceback.format_exc()} if error.__context__ or not own else {}
            self._write(cell, "failed", reason=_reason(cell, error), **told)
            if isinstance(error, Tampered):
                raise Spoiled(known=True) from None
        else:
            return True
        return False

    def _settle(self, changed: str, suspects: Sequence[Learner]) -> None:
        """Act on a change that one of several learners made."""
        if changed:
            names = [learner.cell.method.name for learner in suspects]
            self._guard(suspects[0].cell, partial(self.shared.settle, changed, names), lambda: "")

    def _write(self, cell: Cell, status: str, reason: str = "", numerics: Numerics | None = None, **parts: Any) -> None:
        parts |= {"data": self.task.content} if self.task.content else {}
        leave_record(cell, status, reason, self.store, numerics or self.numerics, self.listener, **parts)


def leave_record(
    cell: Cell, status: str, reason: str, store: records.Store, numerics: Numerics, listener: Listener, **parts: Any
) -> None:
    """End a cell: write its record and tell the listener."""
    identity = {"schema": records.SCHEMA, "id": cell.id, "suite": cell.suite, "status": status, "reason": reason}
    record = {**identity, "cell": cell.config, **parts, "provenance": provenance(numerics)}
    store.write(cast(records.Record, record))
    listener.cell_ended(cell, status, reason, parts.get("result", {}))


def _reason(cell: Cell, error: Exception) -> str:
    """Why a cell failed, in one line."""
    if isinstance(error, ModuleNotFoundError):
        return explained_absence(cell.method.name, error)
    return str(error) if isinstance(error, Misbehaved) else first_line(error)


def _title(cell: Cell) -> str:
    return f"teacher {cell.pair}" if cell.role == "teacher" else f"method {cell.method.label!r} on {cell.pair}"


def _timed(batches: Iterator[Batch], clock: Clock) -> Iterator[Batch]:
    """The same batches, with the time it takes to make them on the clock."""
    while True:
        with clock.running():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch

"""Run cells on this machine, one cohort after the other; one that its memory does not hold runs in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from kdbench import tasks
from kdbench.errors import KDBenchError
from kdbench.executors.deadline import Deadline, Late, OutOfTime
from kdbench.executors.networks import check_networks
from kdbench.hardware import memory
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.records.files import set_aside
from kdbench.suites.added import plain
from kdbench.suites.dataset import DatasetSpec
from kdbench.suites.fixed import refusal
from kdbench.suites.grid import Cell, cohorts, digest
from kdbench.tasks import Task
from kdbench.training import machine_faults
from kdbench.training.cohort import Cohort, leave_record
from kdbench.training.guard import Shared, Spoiled
from kdbench.training.listener import Listener
from kdbench.training.precision import numerics_of
from kdbench.training.stopping import without_held_out
from kdbench.training.students import Students
from kdbench.training.teachers import Teachers


@dataclass
class LocalExecutor:
    """Trains what has no record yet, teachers first.

    Attributes:
        out: the results folder; each suite has a folder in it, and all suites share `teachers/`.
        data_root: the data folder (None: the default one).
        device, compile: as on the command line; the precision is in each cell's recipe.
        cohort_size: the most cells that train side by side, 0 for no limit.
        threads: of the CPU, for each learner; None: one, or what the suite fixes.
        graphs: on how many streams whole steps are replayed as CUDA graphs; 0: none are.
        deadline: the end of the time that there is, if there is one.
        keep_students: whether the network that a cell deploys is kept beside its record.
    """

    out: Path
    listener: Listener
    data_root: Path | None = None
    device: str | None = None
    compile: str = "auto"
    cohort_size: int = 0
    threads: int | None = None
    deadline: Deadline | None = None
    graphs: int = 0
    keep_students: bool = False
    _tasks: dict[str, Task] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell], retry_failed: bool = False) -> None:
        """Train every cell that has no record, or as many as can end before the deadline.

        Args:
            retry_failed: run cells again whose record says `failed`.

        Raises:
            KDBenchError: for bad input, a full disk, or (after all others ran) a teacher that could not be trained.
        """
        stores = {cell.suite: Store(self.out / cell.suite) for cell in cells}
        for store in stores.values():
            store.writable()
        todo = [cell for cell in cells if not _done(stores[cell.suite], cell, retry_failed)]
        for cell in {(cell.recipe, cell.fixed): cell for cell in todo}.values():
            self.numerics(cell)  # what this machine does not have is refused before a teacher trains for it
        self._set_refused_aside(todo, stores)
        for cell in todo:
            stores[cell.suite].forget(cell.id)
            if cell.fault:  # before anything trains for it
                leave_record(cell, "failed", cell.fault, stores[cell.suite], self.numerics(cell), self.listener)
        todo = [cell for cell in todo if not cell.fault]
        self._check_networks(todo)
        teachers = Teachers(self.out / "teachers")
        broken: list[str] = []
        while todo:
            put_off = self._pass(todo, teachers, stores, broken)
            # what ended sooner than estimated leaves time for more
            todo = put_off if len(put_off) < len(todo) else []
        if broken:
            raise KDBenchError("; ".join(dict.fromkeys(broken)))

    def _pass(
        self, cells: Sequence[Cell], teachers: Teachers, stores: Mapping[str, Store], broken: list[str]
    ) -> list[Cell]:
        """Train cells cohort by cohort; returns those that could not end in time.

        Args:
            broken: gets a sentence for each teacher that could not be trained.
        """
        put_off: list[Cell] = []
        if self.deadline:
            self.deadline.shortest = None
        for cohort in cohorts(cells, self.cohort_size):
            store = stores[cohort[0].suite]
            failure = self._train_teachers(cohort, teachers)
            if failure:
                broken.append(failure)
                continue
            if not (self.deadline and any(teachers.missing(cell) for cell in cohort)):
                self._run_cohort(cohort, teachers, store)
            put_off += [cell for cell in cohort if self.deadline and not store.has(cell.id)]
        return put_off

    def late(self, cells: Sequence[Cell]) -> Late | None:
        """What of the cells the time did not suffice for; None if there is a record of each."""
        stores = {cell.suite: Store(self.out / cell.suite) for cell in cells}
        left = {cell.id: (cell, stores[cell.suite]) for cell in cells if not stores[cell.suite].has(cell.id)}
        if not left or self.deadline is None:
            return None
        teachers = Teachers(self.out / "teachers")
        trainings = {t.id: (t, teachers.store) for cell, _ in left.values() for t in teachers.missing(cell)}
        seconds = self.deadline.pace.total([*left.values(), *trainings.values()])
        return Late(len(left), seconds, self.deadline.shortest)

    def _set_refused_aside(self, cells: Sequence[Cell], stores: Mapping[str, Store]) -> None:
        """Keep the records of other numerics than the suite fixes, out of the way of those to come."""
        refused = [(stores[cell.suite], cell) for cell in cells if refusal(stores[cell.suite], cell)]
        for store, cell in refused:
            where = set_aside(store.path(cell.id), store.path(cell.id).parent / "other_numerics").parent
        if refused:
            self.listener.notice(
                f"{len(refused)} records are of other numerics than the suite fixes: they are now in {str(where)!r}, "
                "and their cells run again"
            )

    def _train_teachers(self, cells: Sequence[Cell], teachers: Teachers) -> str:
        """Train the teachers these cells lack; returns why one could not be, or nothing."""
        for cell in cells:
            teachers.set_aside_unsound(cell, self.listener.notice)
        trainings = {training.id: training for cell in cells for training in teachers.missing(cell)}
        for identity, training in trainings.items():
            if self.deadline and not self.deadline.fitting([training], teachers.store):
                continue
            teachers.store.writable()
            teachers.store.forget(identity)  # it may have one: its weights were deleted
            self._run_cohort([training], teachers, teachers.store)
            if self.deadline and not teachers.store.has(identity):
                continue  # stopped at an epoch's end
            record = teachers.store.read(identity)
            if record["status"] != "done":
                teachers.store.forget(identity)  # so that the next run tries again
                return f"teacher {training.pair} could not be trained ({record['reason']}): its cells are left out"
        return ""

    def _run_cohort(self, cells: Sequence[Cell], teachers: Teachers, store: Store) -> None:
        """Train cells side by side, or in as many parts as the device's memory asks for: the results are the same."""
        numerics = self.numerics(cells[0])
        parts, workers_died, watchful = [list(cells)], False, False
        while parts:
            part, full = self._in_time(parts.pop(0), store), None
            if not part:
                continue
            try:
                left = self._train(part, teachers, store, numerics, Shared(watchful))
            except OutOfTime:
                left = [cell for cell in part if not store.has(cell.id)]
            except memory.OutOfMemory as error:
                left = []
                full = str(error), error.alone  # without the error itself: its traceback holds all learners
            except machine_faults.MachineFault as error:
                if workers_died or not error.worker:
                    raise
                workers_died = True
                self._tasks.clear()  # and with the data its dead workers
                self.listener.notice("a process that reads the data died: going on from the last checkpoints")
                left = [cell for cell in part if not store.has(cell.id)]
            except Spoiled as error:
                left = [cell for cell in part if not store.has(cell.id)]
                watchful = not error.known
                self._tasks.clear()
            parts = [left, *parts] if left else parts
            if full or parts:
                memory.release(numerics.device)
            if full:
                parts = self._smaller(part, store, numerics, *full) + parts

    def _in_time(self, cells: list[Cell], store: Store) -> list[Cell]:
        """Those of the cells that can end before the deadline."""
        if self.deadline is None:
            return cells
        chosen = self.deadline.fitting(cells, store)
        if chosen and len(chosen) < len(cells):
            where = f"{cells[0].pair}, seed {cells[0].seed}"
            self.listener.notice(
                f"{where}: {len(chosen)} of {len(cells)} cells train, the others could not end in time"
            )
        return chosen

    def _train(
        self, cells: list[Cell], teachers: Teachers, store: Store, numerics: Numerics, shared: Shared
    ) -> list[Cell]:
        """Train cells side by side; returns those that have to wait."""
        first = cells[0]
        students = Students(store, self.listener.notice).save if self.keep_students else None
        keep = teachers.save if first.role == "teacher" else students
        with self._explained(first, numerics):
            task, held_out = self._task(first, numerics), self._held_out(first, numerics)
        with machine_faults.explained():
            watch = self.deadline.watch() if self.deadline else None
            cohort = Cohort(
                cells, task, teachers, store, numerics, self.listener, keep, shared=shared, after_epoch=watch,
                held_out=held_out,
            )  # fmt: skip
            return cohort.run()

    def _smaller(
        self, cells: list[Cell], store: Store, numerics: Numerics, reason: str, alone: bool
    ) -> list[list[Cell]]:
        """What to train in place of a cohort that memory did not hold: its halves, or nothing if that is no help."""
        left = [cell for cell in cells if not store.has(cell.id)]
        if alone or len(left) < 2:
            for cell in left:
                leave_record(cell, "failed", reason, store, numerics, self.listener)
            return []
        half = (len(left) + 1) // 2
        self.listener.cohort_split((half, len(left) - half), f"the memory of {numerics.device} ran out")
        return [left[:half], left[half:]]

    def numerics(self, cell: Cell) -> Numerics:
        return numerics_of(cell, self.device, self.compile, self.out, self.threads, self.graphs)

    def _check_networks(self, cells: Sequence[Cell]) -> None:
        """Refuse wrong names of networks on the first data set, whose data is needed next anyway."""
        if not cells:
            return
        first, numerics = cells[0], self.numerics(cells[0])
        with self._explained(first, numerics):
            check_networks(self._task(first, numerics), [c for c in cells if c.dataset == first.dataset])

    def _explained(self, cell: Cell, numerics: Numerics) -> AbstractContextManager[None]:
        """What running out of memory says while a cell's data is read."""
        what = f"data set {cell.dataset.name!r}"
        return memory.explained(what, cell.recipe.batch_size, numerics.device, alone=True)

    def _held_out(self, cell: Cell, numerics: Numerics) -> Task | None:
        """The data that the cell trains on, and stops early by, where its recipe has that."""
        if not cell.recipe.patience:
            return None
        return self._task(cell, numerics, without_held_out(cell.dataset, cell.recipe))

    def _task(self, cell: Cell, numerics: Numerics, beside: DatasetSpec | None = None) -> Task:
        """The cell's data, or what stands `beside` it; the last are kept, since neighbouring cohorts share them."""
        recipe = cell.recipe
        of_data = [recipe.batch_size, recipe.augment, recipe.image_size, numerics.describe()]
        data = beside or cell.dataset
        key = digest(plain([data.task, data.name, data.protocol, data.options or {}, *of_data]))
        if key not in self._tasks:
            if beside is None:
                self._tasks.clear()
            numerics.apply()  # what is computed of the data is part of the result
            self._tasks[key] = tasks.create(data, recipe, numerics, self.data_root)
        return self._tasks[key]


def _done(store: Store, cell: Cell, retry_failed: bool) -> bool:
    """Whether the cell has a record that stays."""
    if not store.has(cell.id) or refusal(store, cell):
        return False
    return not (retry_failed and store.read(cell.id)["status"] == "failed")

"""The commands that train and that say how far it is: run, status."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.durations import parsed, told
from kdbench.commands.options import GRID, RUNNING, Selection, console, fail, remark, selecting
from kdbench.commands.results import failures, print_leaderboard
from kdbench.errors import KDBenchError

if TYPE_CHECKING:
    from kdbench.board.publishing.merge import Entry
    from kdbench.executors.deadline import Deadline, Late
    from kdbench.records import Store
    from kdbench.records.types import NumericsConfig
    from kdbench.suites.grid import Cell


@selecting(*GRID, *RUNNING)
def run(
    chosen: Selection,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells, what is done, and the likely cost")
    ] = False,
    keep_students: Annotated[
        bool, typer.Option("--keep-students", help="keep the trained networks for `kdbench use`, in the suite's folder")
    ] = False,
) -> None:
    """Run a suite: train what has no record yet, then print the leaderboard and the path of its CSV."""
    if dry_run:
        if chosen.tuned:
            tell_trials(chosen)
        plan(chosen, chosen.cells, chosen.store)
        return
    from kdbench.commands.unusable import undone

    bring_trials(chosen)
    late = train(chosen, chosen.cells, chosen.store, keep_students)
    failed = leaderboard_of(chosen)
    if late:
        print(late)
    elif lost := sum(not chosen.store.has(cell.id) for cell in chosen.cells):
        fail(
            f"{lost} of {len(chosen.cells)} cells have no record although they were run: something took it out of "
            f"{str(chosen.out)!r} meanwhile; the same command trains them again"
        )
    remark(undone(chosen.store, chosen.cells))
    if keep_students:
        from kdbench.commands.use import not_kept

        remark(not_kept(chosen.cells, chosen.store))
    if failed:
        fail(f"{failed} cells failed; `kdbench status {chosen.typed}` says why, --retry-failed runs them again")


def leaderboard_of(chosen: Selection) -> int:
    """Print the leaderboard of all methods that ran at these points; returns how many of the cells failed."""
    from kdbench.commands.views import view_of

    view, store = view_of(chosen, run=True)
    print_leaderboard(view, store)
    return failures(view.records, chosen.cells)


@selecting(*GRID)
def status(chosen: Selection) -> None:
    """Show which cells are done, running, interrupted, failed, not applicable or missing."""
    from kdbench.commands.plan import print_status

    remark(chosen.suite.absent_data())
    print_status(console(), chosen.shown, chosen.store, chosen.out)


def plan(chosen: Selection, cells: Sequence[Cell], store: Store, beside: Mapping[str, Entry] | None = None) -> None:
    """Print what training these cells would do.

    Args:
        beside: records by id that count as if they were in the store, as those of `--from`'s folders do.
    """
    from kdbench.commands.plan import print_plan

    print_plan(
        console(),
        cells,
        store,
        data_root=chosen.data,
        device=chosen.device,
        compile=chosen.compile,
        threads=chosen.threads,
        graphs=chosen.graphs,
        teachers=chosen.out / "teachers",
        sources=chosen.sources or (),
        beside=beside or {},
    )


def train(chosen: Selection, cells: Sequence[Cell], store: Store, keep_students: bool = False) -> str:
    """Train those of the cells that have no record, here or in the folders of `--from`.

    Args:
        keep_students: whether what they deploy is kept.

    Returns:
        what the time of `--stop-after` did not suffice for, in a sentence; nothing if all are done.
    """
    from kdbench.board.sweeps.twins import copy_records, twins
    from kdbench.commands.unusable import clear_away
    from kdbench.records.leftovers import sweep
    from kdbench.records.lock import locked
    from kdbench.suites.fixed import refusal

    seconds = parsed(chosen.stop_after, "--stop-after") if chosen.stop_after else None
    refuse_published(store)
    try:
        with locked(chosen.out):
            sweep(chosen.out)
            for kept in (store, chosen.store_of("teachers")):
                clear_away(kept)
            if chosen.sources:
                _take(chosen, chosen.sources, cells, store)
            same = twins(cells)
            done = sum(store.has(cell.id) and not refusal(store, cell) for cell in cells)
            if done == len(cells) and not chosen.retry_failed:
                return ""  # before what only training needs is imported
            from kdbench.commands.progress import Display
            from kdbench.executors.local import LocalExecutor

            with Display(console(), len(cells), done) as display:
                executor = LocalExecutor(
                    chosen.out, display, chosen.data, chosen.device, chosen.compile, chosen.cohort_size, chosen.threads
                )
                executor.keep_students = keep_students
                executor.graphs, executor.deadline = chosen.graphs, _deadline(chosen, seconds, store)
                own = [cell for cell in cells if cell.id not in same]
                executor.run(own, chosen.retry_failed)
            copy_records(cells, store)
            return _told(chosen, executor.late(own), len(cells), done)
    except KeyboardInterrupt:
        print("kdbench: interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        raise typer.Exit(130) from None


def bring_trials(chosen: Selection) -> None:
    """Take the trials of `--from`'s folders."""
    if not chosen.sources:
        return
    from kdbench.records.lock import locked

    refuse_published(chosen.store)
    with locked(chosen.out):
        chosen.trials_to_come.bring()
    tell_trials(chosen)


def tell_trials(chosen: Selection) -> None:
    """Say which trials come of `--from`'s folders."""
    for sentence in chosen.trials_to_come.sentences:
        print(sentence)


def refuse_published(store: Store) -> None:
    """Refuse to work in a folder of published results, whose tables and card would no longer be of its records.

    Raises:
        KDBenchError: saying how its results can be gone on with.
    """
    if (card := next(store.folder.parent.glob("*/card.json"), None)) is not None:
        raise KDBenchError(
            f"{str(store.folder.parent)!r} holds published results ({card.parent.name}), to which runs do not write: "
            f"choose another folder with --out, and name --from {store.folder} to go on with what is there"
        )


def _take(chosen: Selection, sources: Sequence[Path], cells: Sequence[Cell], store: Store) -> None:
    from kdbench.commands import taking

    def numerics(cell: Cell) -> NumericsConfig:
        from kdbench.training.precision import numerics_of  # not at the top: it loads timm

        how = chosen.device, chosen.compile, chosen.out, chosen.threads, chosen.graphs
        return numerics_of(cell, *how).describe()

    teachers = chosen.store_of("teachers")
    found = taking.look(sources, cells, store, teachers, numerics)
    found.bring(store, teachers)
    print(taking.told(sources, found))


def _deadline(chosen: Selection, seconds: float | None, store: Store) -> Deadline | None:
    if seconds is None:
        return None
    from kdbench.board.usable import usable
    from kdbench.commands.cost import guess
    from kdbench.executors.deadline import Deadline

    records, _ = usable(store.paths())
    return Deadline(
        seconds, lambda cell: guess(cell, records, chosen.data, chosen.device, chosen.compile, chosen.threads)
    )


def _told(chosen: Selection, late: Late | None, cells: int, before: int) -> str:
    """What is left to do, how long it will take, and how to go on."""
    if late is None:
        return ""
    done = cells - late.cells
    rest = f", which will take about {told(late.seconds)}" if late.seconds else ""
    short = ""
    if done == before and late.shortest:
        short = f"; none of them could end in that time, for the shortest takes about {told(late.shortest)}"
    return (
        f"stopped, as told by --stop-after {chosen.stop_after}: {done} of {cells} cells are done, {late.cells} are left"
        f"{rest}{short}; the same command goes on with them"
    )

"""The commands that train and that say how far it is: run, status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.options import GRID, RUNNING, Selection, console, fail, remark, selecting
from kdbench.commands.results import failures, print_leaderboard

if TYPE_CHECKING:
    from kdbench.records import Store
    from kdbench.suites.grid import Cell


@selecting(*GRID, *RUNNING)
def run(
    chosen: Selection,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells, what is done, and the likely cost")
    ] = False,
) -> None:
    """Run a suite: train what has no record yet, then print the leaderboard and the path of its CSV."""
    if dry_run:
        plan(chosen, chosen.cells, chosen.store)
        return
    from kdbench.commands.unusable import undone

    train(chosen, chosen.cells, chosen.store)
    failed = leaderboard_of(chosen)
    if lost := sum(not chosen.store.has(cell.id) for cell in chosen.cells):
        fail(
            f"{lost} of {len(chosen.cells)} cells have no record although they were run: something took it out of "
            f"{str(chosen.out)!r} meanwhile; the same command trains them again"
        )
    remark(undone(chosen.store, chosen.cells))
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
    print_status(console(), chosen.cells, chosen.store, chosen.out)


def plan(chosen: Selection, cells: Sequence[Cell], store: Store) -> None:
    """Print what training these cells would do."""
    from kdbench.commands.plan import print_plan

    print_plan(
        console(),
        cells,
        store,
        data_root=chosen.data,
        device=chosen.device,
        compile=chosen.compile,
        threads=chosen.threads,
        teachers=chosen.out / "teachers",
    )


def train(chosen: Selection, cells: Sequence[Cell], store: Store) -> None:
    """Train those of the cells that have no record."""
    from kdbench.commands.unusable import clear_away
    from kdbench.records.leftovers import sweep
    from kdbench.records.lock import locked
    from kdbench.suites.fixed import refusal

    try:
        with locked(chosen.out):
            sweep(chosen.out)
            for kept in (store, chosen.store_of("teachers")):
                clear_away(kept)
            done = sum(store.has(cell.id) and not refusal(store, cell) for cell in cells)
            if done == len(cells) and not chosen.retry_failed:
                return  # before what only training needs is imported
            from kdbench.commands.progress import Display
            from kdbench.executors.local import LocalExecutor

            with Display(console(), len(cells), done) as display:
                executor = LocalExecutor(
                    chosen.out, display, chosen.data, chosen.device, chosen.compile, chosen.cohort_size, chosen.threads
                )
                executor.run(cells, chosen.retry_failed)
    except KeyboardInterrupt:
        print("kdbench: interrupted; the same command goes on from the last finished epoch", file=sys.stderr)
        raise typer.Exit(130) from None

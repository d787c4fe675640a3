"""The command that runs a paper's table and says what became of its values: reproduce."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.options import RUNNING, Selection, console, fail, selecting, words
from kdbench.commands.run import plan, refuse_published, train

if TYPE_CHECKING:
    from kdbench.papers.table import Choice, Protocol
    from kdbench.records import Store

Seeds = Annotated[str, typer.Option(help="these instead of the paper's number, comma-separated")]


@selecting("pairs", "checkpoints", "epochs", "precision", "out", *RUNNING, seeds=Seeds)
def reproduce(
    chosen: Selection,
    method: Annotated[str, typer.Argument(help="a registered name, or a composition (crd+kd)")],
    paper: Annotated[str, typer.Option(help="another paper's table, by a part of its name")] = "",
    datasets: Annotated[str, typer.Option(help="only these, comma-separated")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the cells and what the paper reports")] = False,
    report: Annotated[bool, typer.Option("--report", help="train nothing: only compare what is done")] = False,
) -> None:
    """Run a paper's table under its recipe, and give a verdict on each of its values."""
    from kdbench.papers.table import protocol

    table = protocol(method, _choice(chosen, paper, datasets))
    store, failed = chosen.store_of(table.suite), 0
    if dry_run:
        _plan(chosen, table, store)
    elif table.cells:
        refuse_published(store)
        _take_over(chosen, table, store)
        late = "" if report else train(chosen, table.cells, store)
        failed = _write_tables(table, store)
        if late:
            print(late)
    _give_verdict(table, store, keep=not dry_run)
    if failed:
        fail(f"{failed} cells failed; --retry-failed runs them again")


def _choice(chosen: Selection, paper: str, datasets: str) -> Choice:
    from kdbench.papers.table import Choice

    pairs, seeds = words(chosen.pairs), chosen.seed_numbers
    return Choice(paper, words(datasets), pairs, seeds, chosen.epochs, chosen.known_precision, chosen.checkpoints or [])


def _plan(chosen: Selection, table: Protocol, store: Store) -> None:
    from kdbench.papers.reported import IMAGE
    from kdbench.papers.table import take_over

    tasks = {entry.reported.task for entry in table.entries if entry.reported}
    if tasks != {IMAGE}:  # its data sets are named as their suites
        said = "; ".join(f"{recipe} is of suite {suite}" for recipe, suite in table.recipes.items())
        print(f"recipes: {said or 'none that is known'}")
    if not table.cells:
        return
    plan(chosen, table.cells, store)
    if elsewhere := take_over(table.cells, store, chosen.out, dry=True):
        where = str(chosen.out)
        print(f"{elsewhere} of them are finished in other suites of {where!r} and will be taken from there")


def _take_over(chosen: Selection, table: Protocol, store: Store) -> None:
    from kdbench.papers.table import take_over
    from kdbench.records.lock import locked

    with locked(chosen.out):
        take_over(table.cells, store, chosen.out)


def _write_tables(table: Protocol, store: Store) -> int:
    """Write the suite's tables; returns how many cells failed."""
    from kdbench.board.results import Tables
    from kdbench.commands.results import failures
    from kdbench.commands.unusable import records_of

    tables = Tables.of(table.cells, records_of(store))
    tables.write(store.folder)
    return failures(tables.records, table.cells)


def _give_verdict(table: Protocol, store: Store, keep: bool) -> None:
    """Print what was measured beside what is reported, and write it where `keep` says so."""
    from kdbench.board.reproduction import metrics_of_entries, reproduction_table
    from kdbench.board.tables import write_csv
    from kdbench.board.terminal import reproduction
    from kdbench.commands.unusable import counted

    frame = reproduction_table(table.entries, counted(store, table.cells))
    screen = console()
    screen.print(table.paper, style="bold", highlight=False)
    for part in reproduction(frame, metrics_of_entries(table.entries)):
        screen.print(part)
    if keep:
        file = store.beside("reproduce.csv")
        write_csv(frame, file)
        print(f"reproduce: {file}")

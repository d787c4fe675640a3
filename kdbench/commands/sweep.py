"""The command that tunes: the same number of trials for every method, on a part of the training set."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.options import RUNNING, Selection, console, selecting
from kdbench.errors import KDBenchError

if TYPE_CHECKING:
    from kdbench.suites.sweep import Sweep


@selecting(
    "suite_name",
    "methods",
    "pairs",
    "epochs",
    "settings",
    "checkpoints",
    "precision",
    "out",
    *RUNNING,
)
def sweep(
    chosen: Selection,
    trials: Annotated[int | None, typer.Option(help="of each method; default: the suite's, else 16", min=1)] = None,
    epochs_share: Annotated[
        str, typer.Option(help="how long a trial is, as a share of the recipe's epochs, e.g. 1/3; default: the suite's")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the cells, what is done, and the likely cost")
    ] = False,
) -> None:
    """Tune a suite with equal budgets: first the recipe, by the plain student, then every method's own settings."""
    from kdbench.board.sweeps.kept import reader, save, trials_of
    from kdbench.board.sweeps.state import Sweeping
    from kdbench.commands.run import bring_trials, plan, refuse_published, tell_trials, train
    from kdbench.commands.trials import print_choices

    suite, folder = chosen.suite, chosen.store.folder
    how = _asked(suite.sweep, trials, epochs_share)
    how.allow(suite, (cell.seed for cell in suite.cells()))
    store = trials_of(folder)
    if dry_run:
        tell_trials(chosen)
        come = chosen.trials_to_come
        plan(chosen, Sweeping(suite, how, come.reader(suite)).all_cells(), store, come.records)
        return
    refuse_published(chosen.store)
    bring_trials(chosen)
    save(how, folder)
    for cells_of in (Sweeping.recipe_cells, Sweeping.method_cells):  # the methods' wait for the recipe's choice
        cells = cells_of(Sweeping(suite, how, reader(store, suite)))
        if cells and (late := train(chosen, cells, store)):  # of the plain student alone the recipe is all
            print(late)
            return
    print_choices(console(), Sweeping(suite, how, reader(store, suite)))
    print(f"next: kdbench run {chosen.grid_typed} --tuned")


def _asked(sweep: Sweep, trials: int | None, share: str) -> Sweep:
    """The suite's sweep with what the command line says."""
    changes: dict[str, float] = {} if trials is None else {"trials": trials}
    if share:
        try:
            changes["share"] = float(Fraction(share))
        except (ValueError, ZeroDivisionError):
            raise KDBenchError(f"--epochs-share {share!r} is no share: give one such as 1/3 or 0.5") from None
    asked = dataclasses.replace(sweep, **changes)  # type: ignore[arg-type]
    asked.check()
    return asked

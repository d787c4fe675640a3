"""The tuned rows of a suite: asked for, or there because somebody ran them."""

from __future__ import annotations

from kdbench.board.sweeps.kept import sweeping
from kdbench.board.sweeps.taken import TrialsToCome
from kdbench.errors import KDBenchError
from kdbench.records import Store
from kdbench.suites.grid import Cell, Suite


def tuned_cells(suite: Suite, trials: TrialsToCome, typed: str) -> list[Cell]:
    """The cells that train what the suite's sweep chose.

    Args:
        trials: what counts beside the trials in the suite's folder.
        typed: the suite as it was typed, for the message.

    Raises:
        KDBenchError: if there is no sweep, trials are missing, or a result has their seed.
    """
    again = f"`kdbench sweep {typed}`"
    state = trials.sweeping(suite)
    if state is None:
        raise KDBenchError(f"suite {suite.name!r} has no sweep in {str(trials.folder)!r}: run {again} first")
    state.sweep.allow(suite, (cell.seed for cell in suite.cells()))
    lost, total = state.missing()
    if lost:
        raise KDBenchError(
            f"{lost} of {total} trials of suite {suite.name!r} have no record in {str(trials.folder)!r}: run {again} "
            f"first, with --trials {state.sweep.trials} --epochs-share {state.sweep.share:.6g}"
        )
    return state.cells()


def rows_there(suite: Suite, store: Store) -> list[Cell]:
    """The tuned cells of the methods that have at least one record of such, as far as their trials are complete."""
    state = sweeping(suite, store.folder)
    cells = state.cells() if state else []
    there = {cell.method.label for cell in cells if store.has(cell.id)}
    return [cell for cell in cells if cell.method.label in there]

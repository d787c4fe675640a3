"""What a sweep chose, in a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench.board.numbers import plain
from kdbench.board.runs import place_name
from kdbench.board.sweeps.choice import rule
from kdbench.board.sweeps.state import Search, Sweeping
from kdbench.tasks.metrics import Metric, of


def print_choices(console: Console, state: Sweeping) -> None:
    """One table per place: of each method the trial that is chosen, beside the suite's own setting."""
    found: dict[tuple[str, str, str], list[tuple[str, Search]]] = {}
    for label, search in state.searches():
        found.setdefault(search.place.key, []).append((label, search))
    for rows in found.values():
        place = rows[0][1].place
        score = of(place.dataset.task).primary
        table = Table(box=box.SIMPLE_HEAD, title=Text(place_name((place.dataset.name, place.pair)), "table.title"))
        table.title_justify = table.caption_justify = "left"
        for header in ("method", "trials", "failed", "own setting", "choice", "gain", "trial"):
            table.add_column(header, justify="left" if header == "method" else "right", overflow="fold")
        for label, search in rows:
            table.add_row(Text(label), *map(Text, _cells(search, score)))
        table.caption = Text(
            f"{score.heading} on {state.sweep.fraction:g} of the training set, seed {state.sweep.seed}, "
            f"{state.sweep.share:.3g} of the epochs; chosen: {rule(score)}; together {_time(rows)} of training"
        )
        console.print(table)
        for label, search in rows:
            console.print(f"{label}: {_chosen(search)}", markup=False, highlight=False, soft_wrap=True)


def _chosen(search: Search) -> str:
    """The values of the choice, in words."""
    if search.choice is None:
        return "no trial finished, so that it has no tuned row here"
    values = ", ".join(f"{name} {value(given)}" for name, given in search.values.items()) or "nothing to search"
    return values if search.choice else f"{values} (its own setting)"


def _cells(search: Search, score: Metric) -> tuple[str, ...]:
    trials = search.found or []
    own = trials[0]["score"]
    best = trials[search.choice]["score"] if search.choice is not None else None
    gain = "" if own is None or best is None else plain(score.gain(best, over=own), score.decimals, True)
    failed = sum(trial["status"] != "done" for trial in trials)
    numbers = ("" if number is None else plain(number, score.decimals) for number in (own, best))
    return (str(len(trials)), str(failed or ""), *numbers, gain, str(search.choice if best is not None else ""))


def value(given: Any) -> str:
    """A value of a hyperparameter, short."""
    return f"{given:g}" if isinstance(given, float) else str(given)


def _time(rows: list[tuple[str, Search]]) -> str:
    seconds = sum(trial["seconds"] or 0.0 for _, search in rows for trial in search.found or [])
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )

"""The commands that read records and train nothing: leaderboard, report, compare, power."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.options import GRID, RECIPE, Selection, console, label_of, remark, selecting
from kdbench.errors import KDBenchError

if TYPE_CHECKING:
    from kdbench.records import Record, Store
    from kdbench.suites.grid import Cell

COMMON = "leaderboard_common.csv"


@selecting(*GRID)
def leaderboard(
    chosen: Selection,
    common: Annotated[
        bool, typer.Option("--common", help="rank over the pairs (or else seeds) that all methods shown have finished")
    ] = False,
) -> None:
    """Make runs.csv, leaderboard.csv and leaderboard_long.csv from the records, and print the leaderboard."""
    remark(chosen.suite.absent_data())
    print_leaderboard(chosen.shown, chosen.store, common)


@selecting(*GRID)
def report(
    chosen: Selection,
    site: Annotated[
        Path | None, typer.Option("--site", "-o", help="where the site goes [default: site/SUITE]", show_default=False)
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="also write leaderboard.tex")] = False,
    plots: Annotated[bool, typer.Option(help="also write the plots as PNG and SVG")] = True,
    everything: Annotated[
        bool, typer.Option("--all", help="show every record of the folder, not only those of the suite as it is now")
    ] = False,
) -> None:
    """Make a site of the results: leaderboard, plots, one page per method and pair; needs no server and no network."""
    from kdbench.commands.site import report as make_report

    folder = site or Path("site") / chosen.suite.name
    page = make_report(
        chosen.suite, chosen.shown, chosen.store, folder, everything=everything, latex=latex, pictures=plots
    )
    print(f"report: {page}")


@selecting(*RECIPE, suite_name=Annotated[str, typer.Option("--suite", help="a suite's name or a .toml file")])
def compare(
    chosen: Selection,
    a: Annotated[str, typer.Argument(help="a method as the leaderboard calls it, or its .py file")],
    b: Annotated[str, typer.Argument(help="another one")],
) -> None:
    """Say whether method A is better than method B, by how much, and how sure that is."""
    from kdbench.board.compare import compare as compare_methods
    from kdbench.board.terminal_comparison import comparison
    from kdbench.commands.unusable import counted

    a, b = label_of(a), label_of(b)
    comparison(console(), compare_methods(counted(chosen.store, chosen.shown), a, b))


@selecting("suite_name", "pairs", "seeds", *RECIPE)
def power(
    chosen: Selection,
    methods: Annotated[
        str, typer.Option(help="two methods as the leaderboard calls them, comma-separated; default: all, against kd")
    ] = "",
    delta: Annotated[
        float | None,
        typer.Option(help="the difference in points to be seen; default: of two methods that in the records, else 0.5"),
    ] = None,
    sd: Annotated[
        float | None,
        typer.Option(help="assume that paired differences spread over seeds by so many points (sample std)"),
    ] = None,
) -> None:
    """Say which differences the planned seeds can tell, or how many seeds it takes to tell two methods apart.

    It needs no run: until there are records, spreads are those that papers report, or --sd.
    """
    from kdbench.board.power import plan
    from kdbench.board.reach import HALF_A_POINT, planned
    from kdbench.board.results import Tables
    from kdbench.board.terminal_comparison import power as render
    from kdbench.board.terminal_comparison import reached
    from kdbench.commands.unusable import counted, records_of

    for option, value in (("--sd", sd), ("--delta", delta)):
        if value is not None and not 0 < abs(value) < math.inf:
            raise KDBenchError(f"{option} {value:g} is no spread and no difference: give a number of points above 0")
    labels = [label_of(label.strip()) for label in re.split(r",(?![^()]*\))", methods) if label.strip()]
    if not labels:
        grid = Tables.of(chosen.cells, records_of(chosen.store)).grid
        wanted = HALF_A_POINT if delta is None else abs(delta)
        reached(console(), planned(grid, wanted, sd), grid, wanted)
        return
    if len(labels) != 2:
        raise KDBenchError(
            f"--methods {methods!r} names {len(labels)} methods: give the two to tell apart, e.g. dkd,kd"
        )
    records = counted(chosen.store, chosen.shown)
    render(console(), plan(records, labels[0], labels[1], delta, sd))


def print_leaderboard(cells: Sequence[Cell], store: Store, common: bool = False) -> int:
    """Write the tables, print the leaderboard, and return how many of the cells failed."""
    from kdbench.board import terminal
    from kdbench.board.results import Tables
    from kdbench.board.tables import write_csv
    from kdbench.commands.unusable import records_of

    shown = tables = Tables.of(cells, records_of(store))
    published = store.beside("card.json").exists()  # `publish` alone writes there
    if not published:
        tables.write(store.folder)
    screen, files = console(), list(tables.files)
    if common:
        shown = tables.common()
        files.insert(0, COMMON)
        if not published:
            write_csv(shown.wide, store.beside(COMMON))
        note = shown.note or "all methods finished all pairs: nothing is left out"
        screen.print(note, markup=False, highlight=False)
    for part in (*terminal.leaderboard(shown, screen.width), *terminal.suite(shown, screen.width)):
        screen.print(part)
    if published:
        print(f"{str(store.folder)!r} is published: its tables stay as `kdbench publish` made them")
    for name in [] if published else files:
        print(f"{name.removesuffix('.csv') + ':':<20} {store.beside(name)}")
    return failures(tables.records, cells)


def failures(records: Sequence[Record], cells: Sequence[Cell]) -> int:
    """How many of the cells failed."""
    planned = {cell.id for cell in cells}
    return sum(record["status"] == "failed" for record in records if record["id"] in planned)

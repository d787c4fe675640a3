"""The commands that read records and train nothing: leaderboard, report, compare, power."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.options import CARD, GRID, RECIPE, Selection, console, label_of, selecting
from kdbench.errors import KDBenchError

if TYPE_CHECKING:
    from pandas import DataFrame

    from kdbench.board.results import Tables
    from kdbench.board.views import View
    from kdbench.records import Record, Store
    from kdbench.suites.grid import Cell

COMMON = "leaderboard_common.csv"


Narrowed = Annotated[
    str,
    typer.Option(help="show only these and the baselines, comma-separated: names, or .py files; corrections stay"),
]
Teachers = Annotated[
    str, typer.Option(help="show only methods that see so many teachers: none, one or several", show_default=False)
]


@selecting(*GRID, methods=Narrowed)
def leaderboard(
    chosen: Selection,
    common: Annotated[
        bool, typer.Option("--common", help="rank over the pairs (or else seeds) that all methods have finished")
    ] = False,
    teachers: Teachers = "",
) -> None:
    """Make runs.csv, leaderboard.csv and leaderboard_long.csv from the records, and print the leaderboard; a published
    folder is shown as its card has it and stays as it is.
    """
    from kdbench.commands.views import view_of

    view, store = view_of(chosen, teachers=teachers)
    print_leaderboard(view, store, common)


@selecting(*GRID, methods=Narrowed)
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
    teachers: Teachers = "",
) -> None:
    """Make a site of the results: leaderboard, plots, one page per method and pair; needs no server and no network."""
    from kdbench.commands import site as sites
    from kdbench.commands.views import view_of

    sites.need_packages()
    view, store = view_of(chosen, teachers=teachers, every=everything)
    page = sites.report(view, store, site or Path("site") / view.suite, latex=latex, pictures=plots)
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
    from kdbench.commands.views import view_of

    a, b = label_of(a), label_of(b)
    comparison(console(), compare_methods(view_of(chosen)[0].records, a, b))


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


def print_leaderboard(view: View, store: Store, common: bool = False) -> None:
    """Write the tables, unless the folder is published, and print the leaderboard."""
    from kdbench.board import terminal

    shown = tables = view.tables
    screen, files = console(), dict(tables.files)
    if common:
        shown = tables.common()
        files = {COMMON: shown.wide, **files}
        note = shown.note or "all methods finished all pairs: nothing is left out"
        screen.print(note, markup=False, highlight=False)
    for part in (*terminal.leaderboard(shown, screen.width), *terminal.suite(shown, screen.width)):
        screen.print(part)
    if not common and (hint := _hint(tables)):
        screen.print(hint, markup=False, highlight=False, soft_wrap=True)
    write_tables(files, store, view.published)


def _hint(tables: Tables) -> str:
    """What a table over all pairs lacks, and what to do about it; nothing if it lacks nothing."""
    if len(tables.grid.places) < 2 or tables.grid.complete.all():
        return ""
    try:
        kept = tables.common().counted
    except KDBenchError:
        return ""
    whole = tables.grid
    what = "pairs" if len(kept.places) < len(whole.places) else "seeds"
    few, all_ = ((len(kept.places), len(whole.places)), (len(kept.seeds), len(whole.seeds)))[what == "seeds"]
    if few == all_:
        return ""
    return f"not every method finished every run; --common ranks all over the {few} of {all_} {what} that all finished"


def write_tables(files: Mapping[str, DataFrame], store: Store, published: bool) -> None:
    """Write tables beside the records, and say where they are."""
    from kdbench.board.tables import write_csv

    if published or store.beside(CARD).is_file():
        others = [name for name in files if not store.beside(name).is_file()]
        if len(others) < len(files):
            print(
                f"{store.folder} is published, so that its tables are left as they are: `kdbench publish` renews them"
            )
        for name in others:
            print(f"{store.folder} is published, so that {name} is not written there")
        return
    for name, table in files.items():
        write_csv(table, store.beside(name))
        print(f"{name.removesuffix('.csv') + ':':<20} {store.beside(name)}")


def failures(records: Sequence[Record], cells: Sequence[Cell]) -> int:
    """How many of the cells failed."""
    planned = {cell.id for cell in cells}
    return sum(record["status"] == "failed" for record in records if record["id"] in planned)

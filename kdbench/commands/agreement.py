"""`kdbench agreement`: whether a suite ranks methods as the tables of their papers do."""

from __future__ import annotations

from kdbench.commands.options import GRID, Selection, console, selecting


@selecting(*GRID)
def agreement(chosen: Selection) -> None:
    """Say how a suite's order of methods agrees with that of the papers' tables: rank correlations over shared methods;
    writes agreement.csv beside the records, unless the folder is published.
    """
    from kdbench.board import terminal_agreement
    from kdbench.board.agreement import agreements, table
    from kdbench.commands.results import write_tables
    from kdbench.commands.views import view_of
    from kdbench.papers.reported import load_all

    view, store = view_of(chosen)
    found = agreements(view.tables.grid, load_all())
    screen = console()
    for part in terminal_agreement.tables(found):
        screen.print(part)
    write_tables({"agreement.csv": table(found)}, store, view.published)

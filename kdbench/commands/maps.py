"""`kdbench map`: where distillation pays, of a suite whose places differ in one number or two."""

from __future__ import annotations

from kdbench.commands.options import GRID, Selection, console, selecting


@selecting(*GRID)
def map_(chosen: Selection) -> None:
    """Show what each method gains over the plain student where a suite's data or networks differ in one number or two,
    and what decides; writes map.csv beside the records, unless the folder is published.
    """
    from kdbench.board.maps import terminal
    from kdbench.board.maps.gains import FILE, map_of, table
    from kdbench.commands.results import write_tables
    from kdbench.commands.views import view_of

    view, store = view_of(chosen)
    found = map_of(view.tables)
    screen = console()
    for part in terminal.tables(found):
        screen.print(part)
    write_tables({FILE: table(found)}, store, view.published)

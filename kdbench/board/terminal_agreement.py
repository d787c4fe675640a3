"""How a board agrees with the papers' tables, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from kdbench.board.agreement import FEWEST, Agreement
from kdbench.board.numbers import plain

NOTE = (
    "rank: Spearman's correlation over the shared methods; p: of one as far from 0 between orders that have nothing to "
    "do with each other, uncorrected; its pairs: how a table's own pairs of networks agree, the yardstick."
)


def tables(found: Sequence[Agreement]) -> Iterator[Table | Text]:
    """A table for each place of the board, of default and of tuned rows, and what the columns mean."""
    if not found:
        yield Text(f"No table of the papers shares {FEWEST} methods with what is finished here.")
        return
    for (place, tuned), group in groupby(found, lambda a: (a.place, a.tuned)):
        made = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        made.title = Text(place + (", tuned" if tuned else ""), style="bold")
        made.add_column("table", overflow="fold")
        for name in ("data set", "epoch", "methods", "pairs", "rank", "p", "its pairs"):
            made.add_column(name, justify="left" if name in ("data set", "epoch") else "right", no_wrap=True)
        for a in group:
            numbers = (plain(a.rank, 2, True), plain(a.p, 3), plain(a.between_pairs, 2, True) or "-")
            cells = (a.paper, a.dataset, a.selection, str(len(a.shared)), str(a.pairs), *numbers)
            made.add_row(*map(Text, cells))
        yield made
    yield Text(NOTE)

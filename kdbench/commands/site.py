"""`kdbench report`: a suite's results as a site, with its methods in their files' own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from kdbench import registry
from kdbench.board.page.data import Results
from kdbench.board.results import expected
from kdbench.board.select import Chosen, choose
from kdbench.commands.unusable import records_of
from kdbench.errors import KDBenchError
from kdbench.papers.reported import load
from kdbench.records import Record, Store
from kdbench.registry.about import Described, described
from kdbench.suites.grid import Cell, Suite

NEEDED = ("jinja2", "plotly", "matplotlib")


def report(
    suite: Suite,
    cells: Sequence[Cell],
    store: Store,
    folder: Path,
    *,
    everything: bool = False,
    latex: bool = False,
    pictures: bool = True,
) -> Path:
    """Write the site of a suite and return the path of its first page.

    Args:
        suite: what the site is of.
        cells: the grid that counts.
        store: its records.
        folder: where the site goes.
        everything: show all records of the folder, also those that the suite as it is now leaves out.
        latex, pictures: as `kdbench.board.page.build.build`.

    Raises:
        KDBenchError: if there is nothing to show, a package is missing, or the folder cannot be written.
    """
    absent = [package for package in NEEDED if find_spec(package) is None]
    if absent:
        raise KDBenchError(f"a report needs {' and '.join(absent)}: pip install 'kdbench[report]'")
    from kdbench.board.page.build import build

    found = records_of(store)
    chosen = Chosen(found, []) if everything else choose(found, cells)
    records = chosen.records
    if not records:
        older = f", and its {len(found)} other records only count with --all" if found else ": run it first"
        raise KDBenchError(f"{str(store.folder)!r} has no record of the suite as it is now{older}")
    about = "every record of the folder, of whatever version of the suite" if everything else suite.description
    rows = () if everything else expected(cells, chosen.strays)
    results = Results(suite.name, about, records, rows, describe(records), load())
    return build(results, folder, originals=store.path, latex=latex, pictures=pictures)


def describe(records: Iterable[Record]) -> dict[str, Described]:
    """The registered methods among the records, by name."""
    found = {}
    for name in sorted({record["cell"]["method"]["name"] for record in records}):
        try:
            found[name] = described(registry.get(name))
        except KDBenchError:  # it came from a file that was not named this time
            continue
    return found

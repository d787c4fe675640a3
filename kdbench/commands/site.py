"""`kdbench report`: a suite's results as a site, with its methods in their files' own words."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from kdbench import registry
from kdbench.board.page.data import Results
from kdbench.board.views import View
from kdbench.errors import KDBenchError
from kdbench.papers.reported import load_all
from kdbench.records import Store
from kdbench.registry.about import Described, described

NEEDED = ("jinja2", "plotly", "matplotlib")


def need_packages() -> None:
    """Fail now if a site cannot be made.

    Raises:
        KDBenchError: naming the packages that are missing.
    """
    absent = [package for package in NEEDED if find_spec(package) is None]
    if absent:
        raise KDBenchError(f"a report needs {' and '.join(absent)}: pip install 'kdbench[report]'")


def report(view: View, store: Store, folder: Path, *, latex: bool = False, pictures: bool = True) -> Path:
    """Write the site of a suite and return the path of its first page.

    Args:
        view: what is shown.
        store: its records.
        folder: where the site goes.
        latex, pictures: as `kdbench.board.page.build.build`.

    Raises:
        KDBenchError: if there is nothing to show, or the folder cannot be written.
    """
    from kdbench.board.page.build import build

    if not view.records:
        others = len(store.paths())
        older = f", and its {others} other records only count with --all" if others else ": run it first"
        raise KDBenchError(f"{str(store.folder)!r} has no record of the suite as it is now{older}")
    names = {record["cell"]["method"]["name"] for record in view.records} | {row["name"] for row in view.expected}
    made = Results(
        view.suite, view.about, view.records, view.expected, describe(names), load_all(), view.shown, view.remarks
    )
    return build(made, folder, originals=store.path, latex=latex, pictures=pictures)


def describe(names: Iterable[str]) -> dict[str, Described]:
    """The registered ones among methods, by name."""
    found = {}
    for name in sorted(names):
        try:
            found[name] = described(registry.get(name))
        except KDBenchError:  # it came from a file that was not named this time
            continue
    return found

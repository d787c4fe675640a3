"""`kdbench list`: what there is to choose from."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from kdbench import registry, suite
from kdbench.errors import unknown
from kdbench.method import MultiTeacherMethod, MutualMethod

KINDS = ("methods", "suites", "networks", "datasets")


def print_list(console: Console, what: str) -> None:
    """Print one of `KINDS`.

    Raises:
        KDBenchError: for anything else.
    """
    if what == "methods":
        console.print(_methods())
    elif what == "suites":
        console.print(_suites())
    elif what == "networks":
        from kdbench.networks import list_networks

        print("\n".join(list_networks()))
    elif what == "datasets":
        from kdbench.data import DATASETS

        print("\n".join(DATASETS))
    else:
        raise unknown("list", what, KINDS)


def _methods() -> Table:
    table = Table("method", "family", "paper", "fidelity", "needs")
    classes = [registry.get(name) for name in registry.names()]
    for cls in sorted(classes, key=lambda c: (c.info.family, c.info.name)):
        paper = cls.info.paper
        source = f"{paper.title}, {paper.authors} {paper.year}" if paper else ""
        table.add_row(cls.info.name, cls.info.family, source, cls.info.fidelity, ", ".join(_needs(cls)))
    return table


def _needs(cls: type[registry.Method]) -> list[str]:
    needs = [need.replace("_", " ") for need in sorted(cls.needs)]
    if issubclass(cls, MultiTeacherMethod):
        return [f"{cls.min_teachers} or more teachers", *needs]
    if issubclass(cls, MutualMethod):
        return ["several students", *needs]
    return needs


def _suites() -> Table:
    table = Table("suite", "datasets", "pairs", "methods", "seeds", "epochs", "about")
    for name in suite.names():
        grid = suite.load(name)
        sizes = (len(grid.pairs), len(grid.methods), len(grid.seeds), grid.recipe.epochs)
        datasets = ", ".join(dict.fromkeys(d.name for d in grid.datasets))
        table.add_row(name, datasets, *map(str, sizes), grid.description)
    return table

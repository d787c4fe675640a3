"""`kdbench list`: what there is to choose from."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench import registry, suite
from kdbench.errors import KDBenchError, unknown
from kdbench.method import Method, MultiTeacherMethod, MutualMethod, Paper

KINDS = ("methods", "suites", "networks", "datasets")
WIDE = 95  # columns of a terminal that shows all


def print_list(console: Console, what: str, papers: bool = False) -> None:
    """Print one of `KINDS`, or the methods' papers.

    Raises:
        KDBenchError: for anything else.
    """
    if what not in KINDS:
        raise unknown("list", what, KINDS)
    if papers and what != "methods":
        raise KDBenchError(f"--papers goes with the methods, not with {what!r}: leave one of the two out")
    if what == "methods":
        _print_methods(console, papers)
    elif what == "suites":
        console.print(_suites())
    elif what == "networks":
        from kdbench.networks import list_networks

        print("\n".join(list_networks()))
    else:
        from kdbench.data import DATASETS

        print("\n".join(DATASETS))


def needs_of(cls: type[Method]) -> list[str]:
    """What a method asks of its networks beside logits and embedding, in words."""
    needs = [need.replace("_", " ") for need in sorted(cls.needs)]
    if issubclass(cls, MultiTeacherMethod):
        return [f"{cls.min_teachers}+ teachers", *needs]
    if issubclass(cls, MutualMethod):
        return ["several students", *needs]
    return needs


def source_of(paper: Paper | None) -> str:
    """`Zhao et al., CVPR 2022`."""
    return f"{paper.authors}, {paper.venue} {paper.year}".replace(",  ", ", ") if paper else ""


def _print_methods(console: Console, papers: bool) -> None:
    classes = sorted(map(registry.get, registry.names()), key=lambda cls: (cls.info.family, cls.info.name))
    families = {cls.info.family for cls in classes}
    console.print(_papers(classes) if papers else _methods(classes, console.width))
    console.print(
        f"{len(classes)} methods in {len(families)} families; `kdbench show METHOD` says more", highlight=False
    )


def _methods(classes: list[type[Method]], width: int) -> Table:
    """A line a method; a narrow terminal goes without the fidelity."""
    headers: tuple[str, ...] = ("method", "family", "year", "source", "needs", "fidelity")
    headers = headers if width >= WIDE else headers[:-1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in headers:
        table.add_column(header, no_wrap=header != "needs")
    for cls in classes:
        paper = cls.info.paper
        source = ", ".join(part for part in (paper.authors, paper.venue) if part) if paper else ""
        row = (cls.info.name, cls.info.family, str(paper.year) if paper else "", source, ", ".join(needs_of(cls)))
        table.add_row(*map(Text, (*row, cls.info.fidelity)[: len(headers)]))
    return table


def _papers(classes: list[type[Method]]) -> Table:
    """A row a paper, earliest first; methods of one paper share it."""
    methods: dict[Paper, list[type[Method]]] = {}
    for cls in sorted(classes, key=lambda cls: cls.info.name):
        if cls.info.paper:
            methods.setdefault(cls.info.paper, []).append(cls)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    table.add_column("paper", ratio=4, overflow="fold")
    table.add_column("arXiv, code", ratio=3, overflow="fold")
    table.add_column("fidelity", no_wrap=True)
    for paper in sorted(methods, key=lambda paper: (paper.year, methods[paper][0].info.name)):
        found = [cls.info for cls in methods[paper]]
        names = "\n".join(info.name for info in found)
        links = "\n".join(link for link in (paper.arxiv, paper.code) if link)
        fidelities = "\n".join(dict.fromkeys(info.fidelity for info in found))
        text = Text.assemble(paper.title, (f"\n{source_of(paper)}", "dim"))
        table.add_row(Text(names), text, Text(links), Text(fidelities))
    return table


def _suites() -> Table:
    table = Table("suite", "datasets", "pairs", "methods", "seeds", "epochs", "about")
    for name in suite.names():
        grid = suite.load(name)
        sizes = (len(grid.pairs), len(grid.methods), len(grid.seeds), grid.recipe.epochs)
        datasets = ", ".join(dict.fromkeys(d.name for d in grid.datasets))
        table.add_row(name, datasets, *map(str, sizes), grid.description)
    return table

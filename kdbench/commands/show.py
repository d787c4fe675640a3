"""`kdbench show`: what a method is, in its file's own words, and what its paper reports."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kdbench import registry
from kdbench.info import FIDELITIES
from kdbench.method import Method
from kdbench.papers.reported import Reported, by_paper, load_all, load_other, of_method
from kdbench.registry.about import sections, source_of
from kdbench.registry.catalogue import needs_of
from kdbench.registry.composition import Composite
from kdbench.registry.spaces import at_values, space_of
from kdbench.space import said

WIDTH = 110  # prose in wider lines is hard to read


def print_method(console: Console, name: str) -> None:
    """Print one method; of a composition also its parts.

    Raises:
        KDBenchError: naming the nearest method, if there is none.
    """
    cls = registry.get(name)
    for part in _describe(cls):
        console.print(part, width=min(console.width, WIDTH), soft_wrap=isinstance(part, str), highlight=False)
    for part in _reported(cls.info.name):
        console.print(part)


def _describe(cls: type[Method]) -> Iterator[RenderableType]:
    info = cls.info
    if issubclass(cls, Composite):
        yield Text(f"{info.name}: the terms of {' and '.join(part.info.name for part in cls.parts)} together", "bold")
        for part in cls.parts:
            yield Text()
            yield from _describe(part)
        return
    parts = sections(inspect.getdoc(inspect.getmodule(cls)) or inspect.getdoc(cls) or "")
    yield Text.assemble((info.name, "bold"), f": {parts['title']}")
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    needs = ", ".join(needs_of(cls)) or "nothing beside logits and embedding"
    fidelity = f"{info.fidelity}: held against {FIDELITIES[info.fidelity]}"
    for key, value in (("family", info.family), ("fidelity", fidelity), ("needs", needs)):
        facts.add_row(Text(key, "dim"), value)
    if info.paper:
        sources = (source_of(info.paper), f"arXiv {info.paper.arxiv}" if info.paper.arxiv else "", info.paper.code)
        facts.add_row(Text("paper", "dim"), ", ".join(source for source in sources if source))
    if info.aliases:
        facts.add_row(Text("also called", "dim"), ", ".join(info.aliases))
    yield facts
    yield Text()
    if parts["idea"]:
        yield Text(parts["idea"] + "\n")
    if parts["equation"]:
        yield escape(parts["equation"]) + "\n"  # a string: it is never wrapped
    yield _hyperparameters(cls)
    for heading in ("details", "deviations"):
        if parts[heading]:
            yield Text(f"{heading}:", "dim")
            yield Padding(Text(parts[heading]), (0, 0, 1, 2))


def _hyperparameters(cls: type[Method]) -> RenderableType:
    defaults = registry.hyperparameters(cls)
    if not defaults:
        return Text("no hyperparameters\n")
    table = Table("hyperparameter", "default", "search space", box=box.SIMPLE_HEAD)
    space = at_values(space_of(cls), defaults)
    for name, default in defaults.items():
        shown = f"{default:.6g}" if isinstance(default, float) else repr(default)
        table.add_row(name, shown, said(space[name]) if name in space else "")
    return table


def _reported(name: str) -> Iterator[RenderableType]:
    """For each task the table of the first paper that has the method, and where else it is reported."""
    rows = of_method(load_all(), name)
    others = [row for row in load_other() if row["method"].partition("(")[0] == name]
    if not rows and not others:
        yield Text("No paper's numbers are known for it (results/reported).")
        return
    for task in dict.fromkeys(row.task for row in rows):
        papers = by_paper(row for row in rows if row.task == task)
        first, *rest = papers
        scores = dict.fromkeys(row.score for row in papers[first])
        said_of = ", ".join(f"{s.title} in {s.unit}" if s.unit else s.title for s in scores)
        yield Text.assemble(("reported in ", "dim"), first, (f", {said_of}", "dim"))
        for dataset in dict.fromkeys(row.dataset for row in papers[first]):
            yield from _values([row for row in papers[first] if row.dataset == dataset], dataset, name)
        if rest:
            counts = ", ".join(f"{paper} {len(papers[paper])}" for paper in rest)
            yield Text.assemble(("values elsewhere: ", "dim"), counts)
    if others:
        yield _table(
            "other metrics",
            ("paper", "data", "pair", "method", "metric", "value"),
            [
                (row["paper"], row["dataset"], " -> ".join(x for x in (row["teacher"], row["student"]) if x),
                 row["method"], row["metric"], row["value"])
                for row in others
            ],
        )  # fmt: skip


def _values(rows: Sequence[Reported], dataset: str, name: str) -> Iterator[RenderableType]:
    """A data set's values, and under them the notes, which would leave a narrow table no room for the values."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    variants, several = any(row.method != name for row in rows), len({row.metric for row in rows}) > 1
    cells = [
        (
            row.pair,
            row.method if variants else "",
            row.score.title if several else "",
            f"{row.value:.2f}" + (f" ± {row.std:.2f}" if row.std is not None else ""),
            str(row.n or ""),
            row.selection,
            row.recipe,
            f"[{notes.index(row.note) + 1}]" if row.note else "",
        )
        for row in rows
    ]
    yield _table(dataset, ("pair", "method", "metric", "reported", "n", "epoch", "recipe", ""), cells)
    yield from (Padding(Text(f"[{number}] {note}"), (0, 0, 0, 1)) for number, note in enumerate(notes, 1))


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without its empty columns; names of pairs and papers are wrapped, values never."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    kept = [index for index in range(len(headers)) if any(row[index] for row in rows)]
    for index in kept:
        right = headers[index] in ("reported", "n", "value")
        wraps = headers[index] in ("pair", "paper", "data", "method")
        table.add_column(headers[index], justify="right" if right else "left", no_wrap=not wraps, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[index]) for index in kept))
    return table

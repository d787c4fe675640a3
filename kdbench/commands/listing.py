"""`kdbench list`: what there is to choose from."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench import suites
from kdbench.errors import KDBenchError, unknown
from kdbench.info import FIDELITIES, Info, Paper
from kdbench.registry.about import source_of
from kdbench.registry.applies import check_task
from kdbench.registry.catalogue import DATASETS, SCENES, TEXTS, Entry, entries
from kdbench.suites.dataset import DatasetSpec
from kdbench.suites.parse import ALL, SEEDS

KINDS = ("methods", "suites", "networks", "datasets")
WIDE = 95  # columns of a terminal that shows all


def print_list(console: Console, what: str, papers: bool = False, task: str = "") -> None:
    """Print one of `KINDS`, or the methods' papers; of the methods those that apply to a task, where one is named.

    Raises:
        KDBenchError: for anything else.
    """
    if task:
        check_task(task)
    if task and what != "methods":
        raise KDBenchError(f"--task goes with the methods, not with {what!r}: leave one of the two out")
    if what not in KINDS:
        raise unknown("list", what, KINDS)
    if papers and what != "methods":
        raise KDBenchError(f"--papers goes with the methods, not with {what!r}: leave one of the two out")
    if what == "methods":
        _print_methods(console, papers, task)
    elif what == "suites":
        console.print(_suites())
    elif what == "networks":
        from kdbench.tasks.image.networks import list_networks

        print("\n".join(list_networks()))
    else:
        print(
            "\n".join([*DATASETS, *(f"{name} (text)" for name in TEXTS), *(f"{name} (detection)" for name in SCENES)])
        )


def _print_methods(console: Console, papers: bool, task: str) -> None:
    methods = sorted(entries(), key=lambda entry: (entry.info.family, entry.info.name))
    methods = [entry for entry in methods if not task or task in entry.tasks]
    families = {entry.info.family for entry in methods}
    console.print(_papers(methods) if papers else _methods(methods, console.width))
    if papers or console.width >= WIDE:
        held = {entry.info.fidelity for entry in methods}
        meanings = [f"{name}: {meaning}" for name, meaning in FIDELITIES.items() if name in held]
        console.print("Fidelity is what a method was held against.", *meanings, sep="\n  ", highlight=False)
    apply = f" for {task}" if task else ""
    method, family = "method" + "s" * (len(methods) != 1), "family" if len(families) == 1 else "families"
    console.print(
        f"{len(methods)} {method} in {len(families)} {family}{apply}; `kdbench show METHOD` says more", highlight=False
    )


def _methods(methods: list[Entry], width: int) -> Table:
    """One line per method; a narrow terminal goes without the fidelity."""
    headers: tuple[str, ...] = ("method", "family", "year", "source", "needs", "fidelity")
    headers = headers if width >= WIDE else headers[:-1]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in headers:
        table.add_column(header, no_wrap=header != "needs")
    for entry in methods:
        info, paper = entry.info, entry.info.paper
        source = ", ".join(part for part in (paper.authors, paper.venue) if part) if paper else ""
        row = (info.name, info.family, str(paper.year) if paper else "", source, ", ".join(entry.needs))
        table.add_row(*map(Text, (*row, info.fidelity)[: len(headers)]))
    return table


def _papers(methods: list[Entry]) -> Table:
    """One row per paper, earliest first; methods of one paper share it."""
    sharing: dict[Paper, list[Info]] = {}
    for info in sorted((entry.info for entry in methods), key=lambda info: info.name):
        if info.paper:
            sharing.setdefault(info.paper, []).append(info)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    table.add_column("paper", ratio=4, overflow="fold")
    table.add_column("arXiv, code", ratio=3, overflow="fold")
    table.add_column("fidelity", no_wrap=True)
    for paper, found in sorted(sharing.items(), key=lambda item: (item[0].year, item[1][0].name)):
        names = "\n".join(info.name for info in found)
        links = "\n".join(link for link in (paper.arxiv, paper.code) if link)
        fidelities = "\n".join(dict.fromkeys(info.fidelity for info in found))
        text = Text.assemble(paper.title, (f"\n{source_of(paper)}", "dim"))
        table.add_row(Text(names), text, Text(links), Text(fidelities))
    return table


def _suites() -> Table:
    """Counted in the files as they stand: checking a suite's methods would import them."""
    table = Table("suite", "datasets", "size", "about", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    table.caption = "size: pairs x methods x seeds, and how long a student trains"
    known = entries()
    for name in suites.names():
        grid = suites.read(name)
        tasks = {_task(dataset) for dataset in grid["datasets"]}
        applying = [entry.info for entry in known if tasks & {*entry.tasks}]
        pairs, methods, seeds = len(grid["pairs"]), _count(grid["methods"], applying), len(grid.get("seeds", SEEDS))
        datasets = ", ".join(dict.fromkeys(_name(dataset) for dataset in grid["datasets"]))
        recipe = grid["recipe"]
        length = f"{recipe['epochs']} epochs" if "epochs" in recipe else f"{recipe['updates']} updates"
        size = f"{pairs} x {methods} x {seeds}\n{length}"
        table.add_row(name, datasets, size, grid.get("description", ""))
    return table


def _count(methods: list[Any], known: list[Info]) -> int:
    """How many methods a suite runs; `"all"` stands for those of `known` that it does not name with settings."""
    named = [_name(entry) for entry in methods if entry != ALL]
    rest = [info for info in known if not {info.name, *info.aliases} & {*named}]
    return len(named) + (len(rest) if ALL in methods else 0)


def _name(entry: Any) -> str:
    return entry["name"] if isinstance(entry, dict) else entry


def _task(dataset: Any) -> str:
    return dataset.get("task", DatasetSpec.task) if isinstance(dataset, dict) else DatasetSpec.task

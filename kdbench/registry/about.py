"""What is told about a method: its docstring in parts, its paper, its source, in plain text."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kdbench import registry
from kdbench.info import Paper
from kdbench.registry.catalogue import needs_of

if TYPE_CHECKING:  # it loads torch, which a list of methods can do without
    from kdbench.method import Method


def sections(docstring: str) -> dict[str, str]:
    """A method file's docstring in parts: `title`, `idea`, `equation` (the indented lines), `details` and `deviations`.

    Paragraphs before the equation are the idea, those after it the details, until one begins with `Deviations`. A line
    that begins with a dash begins a paragraph of its own.
    """
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    parts = {"title": " ".join(paragraphs[0].split()), "idea": "", "equation": "", "details": "", "deviations": ""}
    where = "idea"
    for paragraph in paragraphs[1:]:
        if paragraph.startswith("Deviations"):
            where = "deviations"
        elif paragraph.startswith("    "):
            parts["equation"] += ("\n\n" if parts["equation"] else "") + paragraph
            where = "details" if where == "idea" else where
            continue
        texts = re.split(r"^(?=- )", paragraph.removeprefix("Deviations:"), flags=re.MULTILINE)
        parts[where] = "\n\n".join(filter(None, (parts[where], *(" ".join(text.split()) for text in texts))))
    return parts


def source_of(paper: Paper | None) -> str:
    """`Zhao et al., CVPR 2022`."""
    return f"{paper.authors}, {paper.venue} {paper.year}".replace(",  ", ", ") if paper else ""


def described(cls: type[Method]) -> Described:
    """A method class in plain text."""
    from kdbench.registry.composition import Composite

    info = cls.info
    needs = ", ".join(needs_of(cls))
    defaults = registry.hyperparameters(cls)
    if issubclass(cls, Composite):
        title = f"The terms of {' and '.join(part.info.name for part in cls.parts)} together"
        return Described(title, fidelity=info.fidelity, needs=needs, defaults=defaults)
    parts = sections(inspect.getdoc(inspect.getmodule(cls)) or inspect.getdoc(cls) or "")
    parts |= {"title": parts["title"].rstrip("."), "equation": textwrap.dedent(parts["equation"])}
    return Described(
        **parts,
        fidelity=info.fidelity,
        needs=needs,
        paper=f"{info.paper.title}. {source_of(info.paper)}" if info.paper else "",
        links=tuple(links(info.paper)) if info.paper else (),
        defaults=defaults,
    )


def links(paper: Paper) -> Sequence[tuple[str, str]]:
    """Where a paper and its code can be read."""
    found = []
    if paper.arxiv:
        found.append((f"arXiv {paper.arxiv}", f"https://arxiv.org/abs/{quote(paper.arxiv)}"))
    if paper.code:
        web = paper.code.startswith(("https://", "http://"))
        found.append((paper.code, paper.code if web else f"https://github.com/{quote(paper.code)}"))
    return found


@dataclass(frozen=True)
class Described:
    """A method in its file's own words (`kdbench.commands.site` fills this in).

    Attributes:
        title, idea, equation, details, deviations: as `kdbench.registry.about.sections` splits the docstring.
        fidelity: what the implementation was held against.
        needs: what it asks of its networks, in words.
        paper: authors, venue and year, or nothing.
        links: text and address of what can be read elsewhere.
        defaults: hyperparameters and their defaults.
    """

    title: str = ""
    idea: str = ""
    equation: str = ""
    details: str = ""
    deviations: str = ""
    fidelity: str = ""
    needs: str = ""
    paper: str = ""
    links: tuple[tuple[str, str], ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

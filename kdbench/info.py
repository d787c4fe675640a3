"""What is known of a method beside its code; it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: str
    year: int
    venue: str = ""
    arxiv: str = ""
    code: str = ""


@dataclass(frozen=True)
class Info:
    """A method's entry in the registry.

    Attributes:
        fidelity: what the implementation was held against: the authors' `"official-code"`, the equations of the
            `"paper"`, or `"reconstructed"` where the text leaves gaps (the docstring says which).
    """

    name: str
    family: str
    paper: Paper | None = None
    fidelity: str = "paper"
    aliases: tuple[str, ...] = field(default=())

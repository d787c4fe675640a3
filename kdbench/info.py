"""What is known of a method beside its code; it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

UNCHECKED = "unchecked"
# what a method was held against, the strongest claim first, and what that means
FIDELITIES = {
    "official-code": "the code that the authors published, gave away or approved",
    "field-code": "a toolbox's version of others' method, as the field's tables have it",
    "paper": "the paper's equations",
    "reconstructed": "what is known of the method; its deviations say what is inferred",
    UNCHECKED: "nothing yet",
}
# what a method may need of every kind of network, beside logits and embedding; tasks' networks offer more
TAPS = frozenset({"features", "maps", "unpooled", "preactivations", "strong_view"})


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
        fidelity: what the implementation was held against, a key of `FIDELITIES`: `"unchecked"` until its author says
            otherwise. The docstring says where single settings differ from it.
    """

    name: str
    family: str
    paper: Paper | None = None
    fidelity: str = UNCHECKED
    aliases: tuple[str, ...] = field(default=())

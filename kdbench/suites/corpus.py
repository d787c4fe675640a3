"""A training corpus that a teacher writes: what a method asks for, and what is taken of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdbench.errors import KDBenchError, unknown

# what each decoding rule may be told, with its default
RULES: Mapping[str, Mapping[str, Any]] = {
    "beam": {"length_penalty": 1.0},
    "diverse": {"length_penalty": 1.0, "diversity": 0.5},
    "greedy": {},
    "top_k": {"top_k": 10},
    "nucleus": {"top_p": 0.7},
    "ancestral": {},
    "mbr": {"pool": 30},
}
CHOICES = ("first", "reference")


@dataclass(frozen=True)
class Corpus:
    """What a method that learns from a teacher's sequences trains on in place of the references.

    Two methods that ask for the same rule, number and options share one corpus, whatever they take of it.

    Attributes:
        rule: how the teacher decodes, one of `RULES`.
        drawn: hypotheses that it writes for each source; the beams of a beam search are as many.
        options: of the rule, where they are not its defaults.
        taken: how many of the hypotheses are trained on, the first ones.
        unique: whether copies of a hypothesis of the same source count as one before they are taken; they stay as
            often as they were drawn otherwise.
        choice: `"first"` in the order of the rule, or `"reference"`: those most like the source's reference come first.

    Raises:
        KDBenchError: for an unknown rule, option or choice, or a number that is none.
    """

    rule: str = "beam"
    drawn: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    taken: int = 1
    choice: str = "first"
    unique: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown("decoding rule", self.rule, RULES)
        for key in self.options:
            if key not in RULES[self.rule]:
                raise unknown(f"option of the decoding rule {self.rule!r}", key, RULES[self.rule])
        if self.choice not in CHOICES:
            raise unknown("choice of hypotheses", self.choice, CHOICES)
        if not 1 <= self.taken <= self.drawn:
            raise KDBenchError(
                f"{self.taken} of {self.drawn} hypotheses cannot be taken: take at least 1, and at most all"
            )
        if self.rule == "greedy" and self.drawn > 1:
            raise KDBenchError(f"greedy decoding has one hypothesis, not {self.drawn}: take 'beam', or draw 1")
        if self.rule == "mbr" and self.setting("pool") < self.drawn:
            raise KDBenchError(
                f"a pool of {self.setting('pool')} samples has no {self.drawn} hypotheses: give a larger pool"
            )
        _in_range(self)

    def setting(self, key: str) -> Any:
        """An option of the rule, or its default."""
        return self.options.get(key, RULES[self.rule][key])

    @property
    def written(self) -> dict[str, Any]:
        """What decides the hypotheses, as plain values."""
        settings = {key: self.setting(key) for key in RULES[self.rule]}
        return {"rule": self.rule, "drawn": self.drawn, **settings}

    @property
    def draws(self) -> bool:
        """Whether the rule draws at random."""
        return self.rule in ("top_k", "nucleus", "ancestral", "mbr")

    @property
    def view(self) -> dict[str, Any]:
        """What is taken of them."""
        return {"taken": self.taken, "choice": self.choice, **({"unique": True} if self.unique else {})}


def _in_range(corpus: Corpus) -> None:
    """Find options that no decoder can have."""
    ranges = {
        "length_penalty": (lambda v: v >= 0, "at least 0"),
        "diversity": (lambda v: v >= 0, "at least 0"),
        "top_k": (lambda v: isinstance(v, int) and v >= 1, "a whole number of at least 1"),
        "top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
        "pool": (lambda v: isinstance(v, int) and v >= 2, "a whole number of at least 2"),
    }
    for key in RULES[corpus.rule]:
        value, (holds, meaning) = corpus.setting(key), ranges[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not holds(value):
            raise KDBenchError(f"{key} of the decoding rule {corpus.rule!r} is {value!r}: give {meaning}")

"""What decoders work with, and what they give.

A decoder asks for nothing but log-probabilities of next tokens, so that the same code runs on encoder-decoders with
their caches, on any module that answers a batch, and on a table of three steps in a test. Hypotheses do not depend on
which sentences are decoded together: rows never see each other, padding is masked, and a sentence's random numbers are
its own. In float32 that holds to rounding; in bfloat16 scores that differ by less than its precision may change places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

FEWEST = 8  # sentences in a batch, however long they are


class Hypothesis(NamedTuple):
    """One translation.

    Attributes:
        tokens: with the end where it was reached, without the start.
        score: its log-probability, divided by length ** `length_penalty` where a search ranks by that.
    """

    tokens: tuple[int, ...]
    score: float


class State(Protocol):
    """Rows of partial translations, all of the same length."""

    def step(self, tokens: Tensor | None) -> Tensor:
        """Append a token to each row (`[R]`, int64; None: the start) and give the log-probabilities of the next one,
        `[R, V]`, float32.
        """
        ...

    def take(self, rows: Tensor) -> None:
        """Go on with these rows (`[R']`, int64) in this order; a row may be named several times."""
        ...


Begin = Callable[[Tensor], State]  # of a batch of sources, one row for each


def decode_sorted(
    sources: Sequence[Sequence[int]],
    decode: Callable[[list[int]], list[list[Hypothesis]]],
    budget: int,
) -> list[list[Hypothesis]]:
    """Hypotheses of each source, in the order of the sources, decoded in batches of similar length.

    Args:
        sources: ids of each sentence.
        decode: hypotheses of the sentences with these numbers.
        budget: tokens of a padded batch, at most, but for batches of `FEWEST` sentences.
    """
    order = sorted(range(len(sources)), key=lambda place: (-len(sources[place]), place))
    found: dict[int, list[Hypothesis]] = {}
    start = 0
    while start < len(order):
        size = max(FEWEST, budget // max(len(sources[order[start]]), 1))
        batch = order[start : start + size]
        found.update(zip(batch, decode(batch), strict=True))
        start += size
    return [found[place] for place in range(len(sources))]


def check_finite(log_probabilities: Tensor) -> None:
    """Refuse a model whose numbers are none.

    Raises:
        FloatingPointError: at NaN.
    """
    if torch.isnan(log_probabilities).any():
        raise FloatingPointError("the model's log-probabilities are NaN: nothing can be decoded with it")


def per_length(score: float, length: int, penalty: float) -> float:
    """A log-probability by which hypotheses of unlike length are ranked (Wu et al. 2016, without their constant 5)."""
    return score / max(length, 1) ** penalty

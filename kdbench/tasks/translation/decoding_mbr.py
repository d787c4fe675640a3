"""Minimum Bayes risk: of a teacher's samples those that agree most with all samples (Eikema and Aziz 2022).

The utility of two texts is sentence chrF (character n-grams up to 6, recall twice, no smoothing: no overlap is 0). Each
sample votes for each other one; a sample's own vote for itself is left out, while copies of it vote, so that what is
drawn often is preferred. Of equally good ones the first drawn comes first. An empty text has no overlap with anything,
an empty one included. No reference is ever looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from kdbench.tasks.translation.metrics import BETA, ORDERS

Grams = list[Counter[str]]


def grams(text: str) -> Grams:
    """Counts of the character n-grams of each order, without spaces."""
    letters = "".join(text.split())
    return [Counter(letters[at : at + n] for at in range(len(letters) - n + 1)) for n in range(1, ORDERS + 1)]


def utility(hypothesis: Grams, reference: Grams) -> float:
    """Sentence chrF, 0 to 100, as sacrebleu has it; of a hypothesis and a reference, which are no equals: recall counts
    more than precision.
    """
    precision = recall = 0.0
    orders = 0
    for mine, theirs in zip(hypothesis, reference, strict=True):
        if not mine or not theirs:
            continue
        matched = (mine & theirs).total()
        precision, recall, orders = precision + matched / mine.total(), recall + matched / theirs.total(), orders + 1
    if precision + recall == 0:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return 100.0 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def ranked(samples: Sequence[str]) -> list[int]:
    """Numbers of the samples by expected utility, best first; of copies only the first stands, the others come last."""
    copies = Counter(samples)
    first = {text: samples.index(text) for text in copies}
    texts = list(copies)
    counted = {text: grams(text) for text in texts}
    expected = {
        text: (utility(counted[text], counted[text]) * (copies[text] - 1) if copies[text] > 1 else 0.0)
        for text in texts
    }
    for a, b in combinations(texts, 2):
        expected[a] += copies[b] * utility(counted[a], counted[b])
        expected[b] += copies[a] * utility(counted[b], counted[a])
    order = sorted(texts, key=lambda text: (-expected[text], first[text]))
    numbers = [first[text] for text in order]
    return numbers + [place for place in range(len(samples)) if place not in set(numbers)]

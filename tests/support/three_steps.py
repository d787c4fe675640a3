"""A model of three steps over four tokens whose every sentence can be enumerated, and searches in plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kdbench.tasks.translation.decoding import Hypothesis, per_length

END, VOCABULARY, LONGEST = 3, 4, 3


class Table:
    """Log-probabilities of the next token after each prefix of each source, `[4, 4, 4, sources]`-like by a dict."""

    def __init__(self, sources: int = 3, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        prefixes = [p for n in range(LONGEST) for p in itertools.product(range(VOCABULARY), repeat=n)]
        self.after = [
            {prefix: (2 * torch.randn(VOCABULARY, generator=draws)).log_softmax(0) for prefix in prefixes}
            for _ in range(sources)
        ]

    def begin(self, inputs: Tensor) -> Rows:
        return Rows(self, [int(source) for source in inputs[:, 0]])

    def hypotheses(self, source: int) -> Iterator[tuple[tuple[int, ...], float]]:
        """Every sentence with its log-probability: those that end, and those of full length that do not."""
        for length in range(1, LONGEST + 1):
            for tokens in itertools.product(range(VOCABULARY), repeat=length):
                whole = tokens[-1] == END or length == LONGEST
                if whole and END not in tokens[:-1]:
                    yield tokens, self.score(source, tokens)

    def score(self, source: int, tokens: tuple[int, ...]) -> float:
        return sum(self.after[source][tokens[:at]][token].item() for at, token in enumerate(tokens))


class Rows:
    """See `kdbench.tasks.translation.decoding.State`."""

    def __init__(self, table: Table, sources: list[int]) -> None:
        self.table, self.rows = table, [(source, ()) for source in sources]

    def step(self, tokens: Tensor | None) -> Tensor:
        if tokens is not None:
            self.rows = [(s, (*p, int(t))) for (s, p), t in zip(self.rows, tokens, strict=True)]  # type: ignore[misc]
        return torch.stack([self.table.after[source][prefix] for source, prefix in self.rows])

    def take(self, rows: Tensor) -> None:
        self.rows = [self.rows[int(row)] for row in rows]


def searched(
    table: Table, source: int, beams: int, groups: int = 1, diversity: float = 0.0, penalty: float = 1.0
) -> list[Hypothesis]:
    """Beam search over lists, as its description has it."""
    width = beams // groups
    live: list[list[tuple[tuple[int, ...], float]]] = [[((), 0.0)] for _ in range(groups)]
    finished: list[list[Hypothesis]] = [[] for _ in range(groups)]
    for length in range(1, LONGEST + 1):
        counts = [0] * VOCABULARY
        for group in range(groups):
            candidates = [
                ((*tokens, token), ranked + table.after[source][tokens][token].item() - diversity * counts[token])
                for tokens, ranked in live[group]
                for token in range(VOCABULARY)
            ]
            candidates.sort(key=lambda each: -each[1])
            for tokens, _ in candidates[:width]:
                if tokens[-1] == END:
                    score = per_length(table.score(source, tokens), length, penalty)
                    finished[group].append(Hypothesis(tokens, score))
            live[group] = [each for each in candidates[: 2 * width] if each[0][-1] != END][:width]
            for tokens, _ in live[group]:
                counts[tokens[-1]] += 1
        live = [[] if len(done) >= width else beam for done, beam in zip(finished, live, strict=True)]
    for group, beam in enumerate(live):
        for tokens, _ in beam:
            score = per_length(table.score(source, tokens), len(tokens), penalty)
            finished[group].append(Hypothesis(tokens, score))
    return sorted((each for done in finished for each in done), key=lambda each: -each.score)[:beams]


def distribution(table: Table, source: int, keep: dict[tuple[int, ...], list[int]] | None = None) -> dict:
    """The probability of each sentence, where at each prefix only the tokens of `keep` may be drawn."""
    found = {}
    for tokens, _ in table.hypotheses(source):
        probability = 1.0
        for at, token in enumerate(tokens):
            log_p = table.after[source][tokens[:at]]
            allowed = range(VOCABULARY) if keep is None else keep[tokens[:at]]
            total = sum(math.exp(log_p[each].item()) for each in allowed)
            probability *= math.exp(log_p[token].item()) / total if token in allowed else 0.0
        found[tokens] = probability
    return found

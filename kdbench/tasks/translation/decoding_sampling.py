"""Greedy decoding and sampling: ancestral, from the k likeliest tokens, from a nucleus (Holtzman et al. 2020).

A sample is drawn by inverting the distribution function at a uniform number that belongs to (seed, sentence, sample,
step), so that it is the same whatever else is decoded beside it. A nucleus is cut from the whole vocabulary: no other
limit is left on beside it, as transformers' default `top_k=50` would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdbench.seeding import generator
from kdbench.tasks.translation.decoding import Begin, Hypothesis, check_finite

Keep = Callable[[Tensor], Tensor]  # log-probabilities [R, V] -> those of what may be drawn, the others -inf


def everything(log_p: Tensor) -> Tensor:
    """Ancestral sampling: the model's own distribution."""
    return log_p


def likeliest(top_k: int) -> Keep:
    """The k likeliest tokens; of equal ones at the edge those with the smaller ids."""

    def keep(log_p: Tensor) -> Tensor:
        order = log_p.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        return torch.full_like(log_p, -torch.inf).scatter(1, order, log_p.gather(1, order))

    return keep


def nucleus(top_p: float) -> Keep:
    """The fewest likeliest tokens that have at least probability p together."""

    def keep(log_p: Tensor) -> Tensor:
        ranked, order = log_p.double().sort(dim=1, descending=True, stable=True)
        before = ranked.exp().cumsum(1) - ranked.exp()
        inside = before < top_p  # the first one always is
        kept = torch.where(inside, log_p.gather(1, order), -torch.inf)
        return torch.full_like(log_p, -torch.inf).scatter(1, order, kept)

    return keep


def uniforms(seed: int, sentences: Sequence[int], samples: int, longest: int) -> Tensor:
    """A number in [0, 1) for each sentence, sample and step, `[S, samples, longest]`, float64."""
    draws = [
        torch.rand(samples, longest, generator=generator("samples", seed, sentence), dtype=torch.float64)
        for sentence in sentences
    ]
    return torch.stack(draws)


@torch.no_grad()
def sample(
    begin: Begin, inputs: Tensor, *, numbers: Tensor, end: int, longest: int, keep: Keep
) -> list[list[Hypothesis]]:
    """So many samples of each source as it has `numbers` (`uniforms`), in the order drawn.

    Their scores are log-probabilities under the model, whatever `keep` left out.
    """
    sentences, samples = numbers.shape[:2]

    def draw(log_p: Tensor, rows: Tensor, step: int) -> Tensor:
        kept = keep(log_p).double().softmax(1).cumsum(1)
        # of the last kept token on, the sum is the whole: rounding must not draw what has no probability
        wanted = numbers.flatten(0, 1).to(log_p.device)[rows, step, None] * kept[:, -1:]
        return (kept <= wanted).sum(1).clamp(max=log_p.shape[1] - 1)

    found = _decode(begin, inputs, samples, draw, end, longest)
    return [found[place * samples : (place + 1) * samples] for place in range(sentences)]


def greedy(begin: Begin, inputs: Tensor, *, end: int, longest: int) -> list[list[Hypothesis]]:
    """The likeliest token at each step; of equal ones that with the smallest id."""

    def draw(log_p: Tensor, rows: Tensor, step: int) -> Tensor:
        return log_p.argmax(1)

    return [[each] for each in _decode(begin, inputs, 1, draw, end, longest)]


@torch.no_grad()
def _decode(
    begin: Begin, inputs: Tensor, samples: int, draw: Callable[[Tensor, Tensor, int], Tensor], end: int, longest: int
) -> list[Hypothesis]:
    """A hypothesis for each row, `samples` for each source; rows that have ended leave the batch."""
    state = begin(inputs)
    log_p = state.step(None)
    rows = torch.arange(len(log_p) * samples, device=log_p.device)
    state.take(rows // samples)
    log_p = log_p.repeat_interleave(samples, 0)
    tokens: list[list[int]] = [[] for _ in rows]
    scores = [0.0] * len(rows)
    for step in range(longest):
        check_finite(log_p)
        chosen = draw(log_p, rows, step)
        gained = log_p.gather(1, chosen[:, None])[:, 0]
        for row, token, score in zip(rows.tolist(), chosen.tolist(), gained.tolist(), strict=True):
            tokens[row].append(token)
            scores[row] += score
        lives = (chosen != end).nonzero().flatten()
        if not len(lives) or step + 1 == longest:
            break
        state.take(lives)
        rows = rows[lives]
        log_p = state.step(chosen[lives])
    return [Hypothesis(tuple(ids), score) for ids, score in zip(tokens, scores, strict=True)]

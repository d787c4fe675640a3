"""Beam search with n best hypotheses, and diverse beam search (Vijayakumar et al. 2018).

At each step a sentence's live beams and their next tokens are ranked together by log-probability. A candidate that ends
among the first `beams` is finished; the first `beams` of the others live on. A sentence is done when `beams` of its
hypotheses are finished (fairseq's rule); what still lives at the last step counts as it is.

Diverse beam search cuts the beams into groups, which choose one after the other at each step: from a token's score the
diversity strength is subtracted for each beam of earlier groups that has chosen it at this step. The penalty decides
what is chosen, summed over steps as in the authors' and fairseq's code; hypotheses of all groups are then ranked by the
model's own score.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdbench.tasks.translation.decoding import Begin, Hypothesis, check_finite, per_length


@dataclass
class _Sentence:
    """What of one sentence is finished, by group."""

    finished: list[list[Hypothesis]] = field(default_factory=list)


@torch.no_grad()
def beam_search(
    begin: Begin,
    inputs: Tensor,
    *,
    beams: int,
    end: int,
    longest: int,
    length_penalty: float = 1.0,
    groups: int = 1,
    diversity: float = 0.0,
) -> list[list[Hypothesis]]:
    """The `beams` best hypotheses of each source, best first; fewer where there are no more.

    Args:
        inputs: the sources, one a row.
        beams: of all groups together; `groups` divides it.
        longest: tokens of a hypothesis, at most.
    """
    state = begin(inputs)
    log_p = state.step(None)
    check_finite(log_p)
    sentences, vocabulary, width = len(log_p), log_p.shape[1], beams // groups
    device = log_p.device
    state.take(torch.arange(sentences, device=device).repeat_interleave(beams))
    log_p = log_p.repeat_interleave(beams, 0)
    places = list(range(sentences))  # of the sentences that are not done
    found = [_Sentence([[] for _ in range(groups)]) for _ in places]
    start = torch.full((groups, width), -torch.inf, device=device)
    start[:, 0] = 0.0
    ranked = start.expand(sentences, groups, width).clone()  # with the penalty: what decides
    scores = ranked.clone()  # the model's own
    tokens = torch.zeros(sentences, beams, 0, dtype=torch.int64, device=device)
    for length in range(1, longest + 1):
        log_p = log_p.view(len(places), groups, width, vocabulary)
        rows, chosen = _choose(log_p, ranked, scores, tokens, places, found, length, length_penalty, diversity, end)
        tokens = torch.cat([tokens.gather(1, rows[..., None].expand_as(tokens)), chosen[..., None]], 2)
        for place, sentence in enumerate(places):
            for group, finished in enumerate(found[sentence].finished):
                if len(finished) >= width:  # it only goes along until the sentence is done
                    ranked[place, group] = scores[place, group] = -torch.inf
        alive = torch.isfinite(scores).flatten(1).any(1).nonzero().flatten()
        if not len(alive) or length == longest:
            break
        offsets = torch.arange(len(places), device=device)[:, None] * beams
        state.take((rows + offsets)[alive].flatten())
        tokens, ranked, scores = tokens[alive], ranked[alive], scores[alive]
        places = [places[place] for place in alive.tolist()]
        log_p = state.step(chosen[alive].flatten())
        check_finite(log_p)
    _add_unfinished(found, places, tokens, scores, length_penalty)
    return [_best(sentence, beams) for sentence in found]


def _choose(
    log_p: Tensor,
    ranked: Tensor,
    scores: Tensor,
    tokens: Tensor,
    places: list[int],
    found: list[_Sentence],
    length: int,
    length_penalty: float,
    diversity: float,
    end: int,
) -> tuple[Tensor, Tensor]:
    """Extend all groups by a token; `ranked` and `scores` are written, what is finished goes to `found`.

    Returns:
        for each beam the number of the beam that it goes on from, and its token, both `[S, beams]`.
    """
    sentences, groups, width, vocabulary = log_p.shape
    counts = torch.zeros(sentences, vocabulary, device=log_p.device)
    rows, chosen = [], []
    for group in range(groups):
        penalty = diversity * counts[:, None, :]
        candidates = (ranked[:, group, :, None] + log_p[:, group] - penalty).flatten(1)
        best, which = candidates.topk(min(2 * width, candidates.shape[1]), dim=1)
        beam, token = which // vocabulary, which % vocabulary
        own = scores[:, group].gather(1, beam) + log_p[:, group].flatten(1).gather(1, which)
        ends, real = token == end, torch.isfinite(best)
        _finish(
            ends & real, beam + group * width, own, tokens, places, found, group, width, length, length_penalty, end
        )
        # those that do not end, in their order; where they are too few the rest is no beam
        order = (ends | ~real).to(torch.int8).sort(dim=1, stable=True).indices[:, :width]
        if order.shape[1] < width:
            order = torch.cat([order, order[:, -1:].expand(-1, width - order.shape[1])], 1)
        lives = (~ends & real).gather(1, order)
        lives &= torch.arange(width, device=order.device) < which.shape[1]
        ranked[:, group] = torch.where(lives, best.gather(1, order), -torch.inf)
        scores[:, group] = torch.where(lives, own.gather(1, order), -torch.inf)
        beam, token = beam.gather(1, order), token.gather(1, order)
        counts.scatter_add_(1, token, lives.float())
        rows.append(beam + group * width)
        chosen.append(token)
    return torch.cat(rows, 1), torch.cat(chosen, 1)


def _finish(
    ends: Tensor,
    beam: Tensor,
    own: Tensor,
    tokens: Tensor,
    places: list[int],
    found: list[_Sentence],
    group: int,
    width: int,
    length: int,
    length_penalty: float,
    end: int,
) -> None:
    """Keep the candidates that end among the first `width`."""
    for place, rank in ends[:, :width].nonzero().tolist():
        ids = (*tokens[place, beam[place, rank]].tolist(), end)
        score = per_length(own[place, rank].item(), length, length_penalty)
        found[places[place]].finished[group].append(Hypothesis(ids, score))


def _add_unfinished(
    found: list[_Sentence], places: list[int], tokens: Tensor, scores: Tensor, length_penalty: float
) -> None:
    """What lives at the last step."""
    groups, width = scores.shape[1:]
    for place, group, beam in torch.isfinite(scores).nonzero().tolist():
        ids = tuple(tokens[place, group * width + beam].tolist())
        score = per_length(scores[place, group, beam].item(), len(ids), length_penalty)
        found[places[place]].finished[group].append(Hypothesis(ids, score))


def _best(sentence: _Sentence, beams: int) -> list[Hypothesis]:
    """All groups' hypotheses by score; equal ones stay in the order in which they were found."""
    together = [each for finished in sentence.finished for each in finished]
    return sorted(together, key=lambda each: -each.score)[:beams]

"""Beam search with n best hypotheses, and diverse beam search (Vijayakumar et al. 2018).

At each step a sentence's live beams and their next tokens are ranked together by log-probability. A candidate that ends
among the first `beams` is finished; the first `beams` of the others live on. A sentence is done when `beams` of its
hypotheses are finished (fairseq's rule); what still lives at the last step counts as it is.

Diverse beam search cuts the beams into groups, which choose one after the other at each step: from a token's score the
diversity strength is subtracted for each beam of earlier groups that lives on with it at this step. The end, with which
none does, is never penalised, as in transformers' former code, by which the field's corpora were made. The penalty
decides what is chosen, summed over steps as in the authors' and fairseq's code; hypotheses of all groups are then
ranked by the model's own score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.tasks.translation.decoding import Begin, Hypothesis, check_finite, per_length


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
    search = _Search(len(log_p), groups, beams // groups, log_p.device, end, length_penalty, diversity)
    state.take(torch.arange(len(log_p), device=log_p.device).repeat_interleave(beams))
    log_p = log_p.repeat_interleave(beams, 0)
    for length in range(1, longest + 1):
        rows, tokens = search.extend(log_p)
        alive = search.alive()
        if not len(alive) or length == longest:
            break
        offsets = torch.arange(len(rows), device=rows.device)[:, None] * beams
        state.take((rows + offsets)[alive].flatten())
        search.keep(alive)
        log_p = state.step(tokens[alive].flatten())
        check_finite(log_p)
    return search.best()


class _Search:
    """The live beams of the sentences that are not done, S of them, and what is finished of all.

    `ranked` (with the penalty of groups) decides what is chosen, `scores` are the model's own, both
    `[S, groups, width]`; a beam at -inf is none. `tokens` are `[S, beams, length]`.
    """

    def __init__(
        self, sentences: int, groups: int, width: int, device: torch.device, end: int, penalty: float, diversity: float
    ) -> None:
        self.groups, self.width, self.end = groups, width, end
        self.length_penalty, self.diversity = penalty, diversity
        self.places = list(range(sentences))
        self.finished: list[list[list[Hypothesis]]] = [[[] for _ in range(groups)] for _ in self.places]
        start = torch.full((groups, width), -torch.inf, device=device)
        start[:, 0] = 0.0
        self.ranked = start.expand(sentences, groups, width).clone()
        self.scores = self.ranked.clone()
        self.tokens = torch.zeros(sentences, groups * width, 0, dtype=torch.int64, device=device)

    def extend(self, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """Let all groups choose, one after the other.

        Args:
            log_p: of each beam's next tokens, `[S * beams, V]`.

        Returns:
            for each beam the number of the beam that it goes on from, and its token, both `[S, beams]`.
        """
        log_p = log_p.view(len(self.places), self.groups, self.width, -1)
        counts = torch.zeros(len(self.places), log_p.shape[3], device=log_p.device)
        chosen = [self._choose(group, log_p[:, group], counts) for group in range(self.groups)]
        rows, tokens = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
        self.tokens = torch.cat([self.tokens.gather(1, rows[..., None].expand_as(self.tokens)), tokens[..., None]], 2)
        for place, sentence in enumerate(self.places):
            for group, finished in enumerate(self.finished[sentence]):
                if len(finished) >= self.width:  # it only goes along until the sentence is done
                    self.ranked[place, group] = self.scores[place, group] = -torch.inf
        return rows, tokens

    def _choose(self, group: int, log_p: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """One group's next beams; `counts` (how often each token was chosen at this step, `[S, V]`) is added to."""
        vocabulary = log_p.shape[2]
        candidates = (self.ranked[:, group, :, None] + log_p - self.diversity * counts[:, None, :]).flatten(1)
        best, which = candidates.topk(min(2 * self.width, candidates.shape[1]), dim=1)
        beam, token = which // vocabulary, which % vocabulary
        own = self.scores[:, group].gather(1, beam) + log_p.flatten(1).gather(1, which)
        ends, real = token == self.end, torch.isfinite(best)
        for place, rank in (ends & real)[:, : self.width].nonzero().tolist():
            before = self.tokens[place, group * self.width + beam[place, rank]].tolist()
            self._finish(place, group, (*before, self.end), own[place, rank].item())
        # those that do not end, in their order; where they are too few the rest is no beam
        order = (ends | ~real).to(torch.int8).sort(dim=1, stable=True).indices[:, : self.width]
        order = torch.cat([order, order[:, -1:].expand(-1, self.width - order.shape[1])], 1)
        lives = (~ends & real).gather(1, order)
        lives &= torch.arange(self.width, device=order.device) < which.shape[1]
        self.ranked[:, group] = torch.where(lives, best.gather(1, order), -torch.inf)
        self.scores[:, group] = torch.where(lives, own.gather(1, order), -torch.inf)
        beam, token = beam.gather(1, order), token.gather(1, order)
        counts.scatter_add_(1, token, lives.float())
        return beam + group * self.width, token

    def _finish(self, place: int, group: int, ids: tuple[int, ...], score: float) -> None:
        hypothesis = Hypothesis(ids, per_length(score, len(ids), self.length_penalty))
        self.finished[self.places[place]][group].append(hypothesis)

    def alive(self) -> Tensor:
        """Numbers of the sentences that are not done."""
        return torch.isfinite(self.scores).flatten(1).any(1).nonzero().flatten()

    def keep(self, alive: Tensor) -> None:
        """Go on with these sentences alone."""
        self.tokens, self.ranked, self.scores = self.tokens[alive], self.ranked[alive], self.scores[alive]
        self.places = [self.places[place] for place in alive.tolist()]

    def best(self) -> list[list[Hypothesis]]:
        """All groups' hypotheses by score, and what still lives; equal ones stay in the order of their finding."""
        for place, group, beam in torch.isfinite(self.scores).nonzero().tolist():
            ids = tuple(self.tokens[place, group * self.width + beam].tolist())
            self._finish(place, group, ids, self.scores[place, group, beam].item())
        together = [[each for finished in groups for each in finished] for groups in self.finished]
        return [sorted(found, key=lambda each: -each.score)[: self.groups * self.width] for found in together]

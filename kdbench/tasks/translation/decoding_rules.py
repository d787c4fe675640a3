"""The decoding rules by name (`kdbench.suites.corpus.RULES`): text in, hypotheses as text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kdbench.suites.corpus import Corpus
from kdbench.tasks.translation.decoding import Hypothesis, State, decode_sorted
from kdbench.tasks.translation.decoding_beam import beam_search
from kdbench.tasks.translation.decoding_mbr import ranked
from kdbench.tasks.translation.decoding_sampling import Keep, everything, greedy, likeliest, nucleus, sample, uniforms

BUDGET = 4096  # tokens of a padded batch of sources, over all its hypotheses


class Written(NamedTuple):
    """A hypothesis as text, and its score (`Hypothesis.score`)."""

    text: str
    score: float


class Translator(Protocol):
    """A model with the vocabulary that it reads and writes.

    Attributes:
        end: the id that ends a sentence.
        longest: tokens of a translation, at most.
    """

    end: int
    longest: int

    def ids(self, source: str, language: str = "") -> list[int]:
        """Of a source sentence that is to be translated into a language: the data's target, if none is named."""
        ...

    def begin(self, inputs: Tensor) -> State:
        """Of sources `[S, L]`, padded with `padding`."""
        ...

    def padded(self, sources: Sequence[Sequence[int]]) -> Tensor:
        """Sources as a batch, on the device."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Of a hypothesis, detokenised."""
        ...


def translate(
    translator: Translator,
    sources: Sequence[str],
    rule: Corpus,
    *,
    seed: int = 0,
    first: int = 0,
    languages: Sequence[str] = (),
) -> list[list[Written]]:
    """The hypotheses of each source by a rule, in the order of the sources: `rule.drawn` each, or as many as there are.

    Args:
        seed: of the samples.
        first: the number of the first source among all sources, which with `seed` decides its samples.
        languages: which one each source is translated into; the data's target, if none are named.
    """
    ids = [translator.ids(*asked) for asked in zip(sources, languages or [""] * len(sources), strict=True)]
    budget = max(BUDGET // _at_once(rule), 1)

    def decode(places: list[int]) -> list[list[Hypothesis]]:
        inputs = translator.padded([ids[place] for place in places])
        return _decoded(translator, inputs, rule, seed, [first + place for place in places])

    found = decode_sorted(ids, decode, budget)
    texts = [[Written(translator.text(each.tokens), each.score) for each in row] for row in found]
    return [_ranked(row, rule.drawn) for row in texts] if rule.rule == "mbr" else texts


def _at_once(rule: Corpus) -> int:
    return rule.setting("pool") if rule.rule == "mbr" else rule.drawn


def _decoded(
    translator: Translator, inputs: Tensor, rule: Corpus, seed: int, numbers: Sequence[int]
) -> list[list[Hypothesis]]:
    end, longest, begin = translator.end, translator.longest, translator.begin
    if rule.rule in ("beam", "diverse"):
        diverse = {"groups": rule.drawn, "diversity": rule.setting("diversity")} if rule.rule == "diverse" else {}
        penalty = rule.setting("length_penalty")
        return beam_search(begin, inputs, beams=rule.drawn, end=end, longest=longest, length_penalty=penalty, **diverse)
    if rule.rule == "greedy":
        return greedy(begin, inputs, end=end, longest=longest)
    keep: Keep = everything
    if rule.rule == "top_k":
        keep = likeliest(rule.setting("top_k"))
    elif rule.rule == "nucleus":
        keep = nucleus(rule.setting("top_p"))
    draws = uniforms(seed, numbers, _at_once(rule), longest)
    return sample(begin, inputs, numbers=draws, end=end, longest=longest, keep=keep)


def _ranked(samples: list[Written], count: int) -> list[Written]:
    return [samples[place] for place in ranked([each.text for each in samples])[:count]]


def padded(sources: Sequence[Sequence[int]], padding: int, device: torch.device) -> Tensor:
    """Rows of ids, filled up at their ends, `[S, L]`."""
    longest = max(map(len, sources))
    rows = [[*row, *[padding] * (longest - len(row))] for row in sources]
    return torch.tensor(rows, dtype=torch.int64, device=device)

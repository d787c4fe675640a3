"""A corpus that a teacher wrote: which hypotheses are trained on, and what it is like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import BLEU

from kdbench.suites.corpus import Corpus
from kdbench.tasks.translation import scoring
from kdbench.tasks.translation.data.pairs import Pair

SOME = 200  # sources on which the likeness of hypotheses is measured
# Lin and Och 2004: 1 is added to the counts of n-grams longer than a word; orders that a sentence does not have are no
# part of the mean, so that a short exact match is 100 and no overlap is 0
SENTENCE_BLEU = BLEU(smooth_method="add-k", smooth_value=1, effective_order=True)


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """Smoothed BLEU of one sentence, 0 to 100."""
    return float(SENTENCE_BLEU.sentence_score(hypothesis, [reference]).score)


def best_first(
    pairs: Sequence[Pair], hypotheses: Sequence[Sequence[str]], corpus: Corpus
) -> tuple[list[Pair], list[Pair], dict[str, int]]:
    """The pairs that are trained on: each source with the hypotheses that are taken of its own.

    Hypotheses stay as often as they were drawn; empty ones are left out. Of hypotheses that are equally like the
    reference those stand first that the rule ranks first.

    Returns:
        the pairs, the same sources each with the rule's first hypothesis, and how many hypotheses are `duplicates` of
        another of the same source and how many were `empty`.
    """
    chosen: list[Pair] = []
    firsts: list[Pair] = []
    duplicates = empty = 0
    for pair, drawn in zip(pairs, hypotheses, strict=True):
        ranked = list(drawn)
        if corpus.choice == "reference":
            ranked.sort(key=lambda text, reference=pair.target: -sentence_bleu(text, reference))  # type: ignore[misc]
        taken = [text for text in ranked[: corpus.taken] if text.strip()]
        empty += min(corpus.taken, len(ranked)) - len(taken)
        duplicates += len(taken) - len(set(taken))
        first = next((text for text in drawn if text.strip()), "")
        for text in taken:
            chosen.append(Pair(pair.source, text, pair.language))
            firsts.append(Pair(pair.source, first, pair.language))
    return chosen, firsts, {"duplicates": duplicates, "empty": empty}


def about(pairs: Sequence[Pair], hypotheses: Sequence[Sequence[str]], language: str) -> dict[str, Any]:
    """What a corpus is like, for its record: sizes, duplicates, diversity, and how far it is from the references."""
    every = [text for row in hypotheses for text in row]
    unlike = sum(len(set(row)) for row in hypotheses)
    firsts = [row[0] if row else "" for row in hypotheses]
    return {
        "sources": len(pairs),
        "hypotheses": len(every),
        "duplicates": len(every) - unlike,
        "empty": sum(not text.strip() for text in every),
        "words": sum(len(text.split()) for text in every),
        "characters": sum(map(len, every)),
        "bytes": sum(len(text.encode()) for text in every),
        "distinct1": scoring.distinct(every, 1),
        "distinct2": scoring.distinct(every, 2),
        "self_chrf": scoring.self_chrf(hypotheses[:SOME]),
        "first": scoring.corpus_scores(firsts, [pair.target for pair in pairs], language, strict=False),
        "hallucinated": scoring.hallucinations(
            [pair.source for pair in pairs], firsts, [pair.target for pair in pairs]
        ),
    }

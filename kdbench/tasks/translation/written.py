"""A corpus that a teacher wrote: which hypotheses are trained on, and what it is like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdbench.suites.corpus import Corpus
from kdbench.tasks.translation import scoring
from kdbench.tasks.translation.data.pairs import Pair

SOME = 200  # sources on which the likeness of hypotheses is measured


def sentence_bleu(hypothesis: str, reference: str, language: str = "") -> float:
    """Smoothed BLEU of one sentence, 0 to 100, with the tokenizer of its language."""
    return float(scoring.sentence_metric(language).sentence_score(hypothesis, [reference]).score)


def best_first(
    pairs: Sequence[Pair], hypotheses: Sequence[Sequence[str]], corpus: Corpus
) -> tuple[list[Pair], list[Pair], dict[str, int]]:
    """The pairs that are trained on: each source with the hypotheses that are taken of its own.

    Hypotheses stay as often as they were drawn, unless the corpus is to be `unique`; empty ones are left out. Of
    hypotheses that are equally like the reference those stand first that the rule ranks first.

    Returns:
        the pairs, the same sources each with the rule's first hypothesis, and how many hypotheses are `duplicates` of
        another of the same source and how many were `empty`.
    """
    chosen: list[Pair] = []
    firsts: list[Pair] = []
    duplicates = empty = 0
    for pair, drawn in zip(pairs, hypotheses, strict=True):
        ranked = list(dict.fromkeys(drawn)) if corpus.unique else list(drawn)
        if corpus.choice == "reference":
            liking = [sentence_bleu(text, pair.target, pair.language) for text in ranked]
            ranked = [ranked[place] for place in sorted(range(len(ranked)), key=lambda place: -liking[place])]
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
        "distinct1": scoring.distinct(every, 1, language),
        "distinct2": scoring.distinct(every, 2, language),
        "self_chrf": scoring.self_chrf(hypotheses[:SOME]),
        "first": scoring.corpus_scores(firsts, [pair.target for pair in pairs], language, strict=False),
        "hallucinated": scoring.hallucinations(
            [pair.source for pair in pairs], firsts, [pair.target for pair in pairs]
        ),
    }

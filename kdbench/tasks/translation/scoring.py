"""Scores of translations: BLEU and chrF by sacrebleu on detokenised text, diversity, hallucinations.

Translations and references are lists of the same length, one reference each; no line is ever left out, so that an
empty translation counts as one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from kdbench.errors import KDBenchError
from kdbench.tasks.translation.metrics import bleu, chrf

DETACHED = 10.0  # sentence chrF below which a translation has next to nothing of its reference
GRAM, MORE = 4, 2  # Guerreiro et al. 2023: a 4-gram that comes at least twice more often than any of the source
SUBWORDS = re.compile(r"▁|@@( |$)|&(amp|quot|apos|lt|gt|#\d+);")
SPACELESS = ("zh", "ja", "th", "lo", "km", "my")  # scripts whose words no space tells apart
EXTRAS = {"ja": "ja", "ko": "ko"}  # languages whose tokenizer is a package of its own


def check(translations: Sequence[str], references: Sequence[str], strict: bool = True) -> None:
    """Refuse what cannot be scored line by line.

    Args:
        strict: also refuse marks of subwords and of HTML, which detokenised text does not have; not for what a model
            spelt by itself.

    Raises:
        KDBenchError: if the numbers of lines differ, or a translation is not detokenised text.
    """
    if len(translations) != len(references):
        raise KDBenchError(
            f"{len(translations)} translations stand beside {len(references)} references: give one line for each"
        )
    for number, (mine, theirs) in enumerate(zip(translations, references, strict=True)):
        if strict and (found := SUBWORDS.search(mine)) and found[0].strip() not in theirs:
            raise KDBenchError(
                f"translation {number} has {found[0].strip()!r}, which is a mark of subwords or of HTML: detokenise it "
                "before it is scored"
            )


@cache
def bleu_metric(language: str) -> BLEU:
    """sacrebleu's BLEU with the tokenizer of the target language.

    Raises:
        KDBenchError: if that is a package that is not here.
    """
    return _bleu(language)


@cache
def sentence_metric(language: str) -> BLEU:
    """The same for single sentences: 1 is added to the counts of n-grams longer than a word (Lin and Och 2004), and
    orders that a sentence does not have are no part of the mean, so that a short exact match is 100 and no overlap 0.
    """
    return _bleu(language, smooth_method="add-k", smooth_value=1, effective_order=True)


def _bleu(language: str, **options: Any) -> BLEU:
    language = _code(language)
    try:
        metric = BLEU(trg_lang=language, **options)
        metric.corpus_score(["a"], [["a"]])  # its tokenizer is loaded here
    except (ImportError, RuntimeError) as error:
        extra = EXTRAS.get(language, language)
        raise KDBenchError(
            f"BLEU of the language {language!r} needs a tokenizer that is not here: pip install 'sacrebleu[{extra}]'"
        ) from error
    return metric


def _code(language: str) -> str:
    """A language's code of two letters where it has one: `zh` of `zh_CN`, `zh-Hant` and `zho`."""
    language = language.lower().partition("-")[0].partition("_")[0]
    return {"zho": "zh", "jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo", "khm": "km", "mya": "my"}.get(
        language, language
    )


@cache
def _chrf_metric() -> CHRF:
    return CHRF()


def signatures(translations: Sequence[str], references: Sequence[str], language: str) -> dict[str, str]:
    """sacrebleu's signatures of both metrics."""
    found = {}
    for name, metric in (("bleu", bleu_metric(language)), ("chrf", _chrf_metric())):
        metric.corpus_score(list(translations), [list(references)])
        found[name] = str(metric.get_signature())
    return found


def statistics(
    translations: Sequence[str], references: Sequence[str], language: str, strict: bool = True
) -> dict[str, Any]:
    """The counts that BLEU and chrF are made of, for `metrics.bleu` and `metrics.chrf`.

    Raises:
        KDBenchError: as `check`.
    """
    check(translations, references, strict)
    mine, theirs = list(translations), [list(references)]
    score = bleu_metric(language).corpus_score(mine, theirs)
    sums = [sum(column) for column in zip(*_chrf_metric()._extract_corpus_statistics(mine, theirs), strict=True)]
    return {
        "bleu": {
            "matched": list(score.counts),
            "total": list(score.totals),
            "length": score.sys_len,
            "reference_length": score.ref_len,
        },
        "chrf": [[int(n) for n in sums[start : start + 3]] for start in range(0, len(sums), 3)],
    }


def corpus_scores(
    translations: Sequence[str], references: Sequence[str], language: str, strict: bool = True
) -> dict[str, float]:
    """`chrf` and `bleu`, 0 to 100."""
    counts = statistics(translations, references, language, strict)
    return {"chrf": chrf(counts["chrf"]), "bleu": bleu(counts["bleu"])}


def likeness(translations: Sequence[str], others: Sequence[str]) -> float:
    """chrF against other translations, 0 to 100."""
    return float(_chrf_metric().corpus_score(list(translations), [list(others)]).score)


# ------------------------------------------------------------------------------------------------ diversity


def distinct(lines: Sequence[str], length: int, language: str = "") -> float:
    """Different n-grams of words over all of them, in percent (Li et al. 2016); 0 where there are none.

    Args:
        language: where it is one of `SPACELESS`, letters are counted, since no space tells its words apart.
    """
    spaceless = _code(language) in SPACELESS
    words = ([*"".join(line.split())] if spaceless else line.split() for line in lines)
    grams = [gram for line in words for gram in _grams(line, length)]
    return 100.0 * len(set(grams)) / len(grams) if grams else 0.0


def self_chrf(groups: Sequence[Sequence[str]]) -> float | None:
    """How alike the hypotheses of one source are: mean sentence chrF of each two, over all sources, 0 to 100.

    Returns:
        None where no source has two.
    """
    metric, means = _chrf_metric(), []
    for group in groups:
        pairs = list(combinations(group, 2))
        if pairs:
            means.append(sum(metric.sentence_score(a, [b]).score for a, b in pairs) / len(pairs))
    return sum(means) / len(means) if means else None


# ------------------------------------------------------------------------------------------------ hallucinations


def oscillates(source: str, translation: str) -> bool:
    """Whether a translation repeats itself: its most frequent 4-gram of words, or of letters in a translation of fewer
    words, comes at least twice more often than the source's.
    """
    if len(translation.split()) >= GRAM:
        return _most(translation.split()) - _most(source.split()) >= MORE
    return _most(list(translation)) - _most(list(source)) >= MORE


def detached(translation: str, reference: str) -> bool:
    """Whether a translation has next to nothing of its reference: sentence chrF below `DETACHED`."""
    return _chrf_metric().sentence_score(translation, [reference]).score < DETACHED


def hallucinations(sources: Sequence[str], translations: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The share of translations that oscillate, that are detached, and of those that do either, in percent."""
    rows = list(zip(sources, translations, references, strict=True))
    repeated = [oscillates(source, mine) for source, mine, _ in rows]
    apart = [detached(mine, theirs) for _, mine, theirs in rows]
    either = [a or b for a, b in zip(repeated, apart, strict=True)]
    count = max(len(rows), 1)
    return {
        "oscillating": 100.0 * sum(repeated) / count,
        "detached": 100.0 * sum(apart) / count,
        "either": 100.0 * sum(either) / count,
    }


def _grams(items: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(items[start : start + length]) for start in range(len(items) - length + 1)]


def _most(items: Sequence[str]) -> int:
    return max(Counter(_grams(items, GRAM)).values(), default=0)

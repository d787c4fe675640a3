"""Minimum Bayes risk: what agrees most with the samples, by a utility that is sacrebleu's."""

from __future__ import annotations

import random

import pytest
from sacrebleu.metrics import CHRF

from kdbench.tasks.translation.decoding_mbr import grams, ranked, utility

LINES = ["the cat sat on the mat", "the cat sits on a mat", "a dog", "", "x", "the cat sat on the mat today"]


@pytest.mark.parametrize("hypothesis", LINES)
@pytest.mark.parametrize("reference", LINES)
def test_the_utility_is_the_chrf_of_a_sentence(hypothesis: str, reference: str) -> None:
    wanted = CHRF().sentence_score(hypothesis, [reference]).score
    assert utility(grams(hypothesis), grams(reference)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_ranking_is_that_of_the_expected_utility_over_the_other_samples(seed: int) -> None:
    draws = random.Random(seed)
    words = ["sea", "seas", "lake", "river", "the", "a", ""]
    samples = [" ".join(draws.choices(words, k=draws.randint(0, 3))) for _ in range(8)]
    samples += samples[:2]  # copies
    metric = CHRF()
    expected = [
        sum(metric.sentence_score(mine, [other]).score for place, other in enumerate(samples) if place != number)
        for number, mine in enumerate(samples)
    ]
    unlike = [number for number, text in enumerate(samples) if samples.index(text) == number]
    order = ranked(samples)[: len(unlike)]
    assert sorted(order) == unlike
    assert [expected[number] for number in order] == pytest.approx(sorted((expected[n] for n in unlike), reverse=True))


def test_what_is_drawn_often_is_preferred_and_copies_come_last() -> None:
    samples = ["a variant of it", "the answer", "", "the answer", "the answer"]
    assert samples[ranked(samples)[0]] == "the answer"
    assert ranked(samples)[:3] == [1, 0, 2]
    assert sorted(ranked(samples)) == list(range(5))


def test_of_equal_ones_the_first_drawn_comes_first() -> None:
    assert ranked(["ab", "cd"]) == [0, 1]
    assert ranked(["", ""]) == [0, 1]


def test_partial_overlap_beats_none() -> None:
    assert ranked(["zzzz", "the cat", "the cats", "the bat"])[-1] == 0

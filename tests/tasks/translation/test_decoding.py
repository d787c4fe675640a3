"""The decoders, held against enumeration on a model of three steps, and against searches in plain loops."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from support.three_steps import END, LONGEST, VOCABULARY, Table, distribution, searched

from kdbench.tasks.translation.decoding import Hypothesis, decode_sorted
from kdbench.tasks.translation.decoding_beam import beam_search
from kdbench.tasks.translation.decoding_sampling import (
    Keep,
    everything,
    greedy,
    likeliest,
    nucleus,
    sample,
    uniforms,
)

TABLE, SOURCES = Table(), torch.arange(3)[:, None]
LIMITS = {"end": END, "longest": LONGEST}
SAMPLES = 20_000


def same(found: list[Hypothesis], wanted: list[Hypothesis]) -> None:
    assert [each.tokens for each in found] == [each.tokens for each in wanted]
    assert [each.score for each in found] == pytest.approx([each.score for each in wanted], abs=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_all_sentences_finds_the_best_ones_in_order(penalty: float) -> None:
    for source, found in enumerate(beam_search(TABLE.begin, SOURCES, beams=60, length_penalty=penalty, **LIMITS)):
        every = [Hypothesis(tokens, score / len(tokens) ** penalty) for tokens, score in TABLE.hypotheses(source)]
        same(found, sorted(every, key=lambda each: -each.score))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_a_narrow_beam_finds_what_the_search_in_loops_does(beams: int, seed: int) -> None:
    table = Table(seed=seed)
    for source, found in enumerate(beam_search(table.begin, SOURCES, beams=beams, **LIMITS)):
        same(found, searched(table, source, beams))


@pytest.mark.parametrize("diversity", [0.0, 0.5, 5.0])
@pytest.mark.parametrize(("beams", "groups"), [(3, 3), (4, 2)])
def test_diverse_beams_are_those_of_the_search_in_loops(beams: int, groups: int, diversity: float) -> None:
    diverse = {"groups": groups, "diversity": diversity}
    for source, found in enumerate(beam_search(TABLE.begin, SOURCES, beams=beams, **diverse, **LIMITS)):  # type: ignore[arg-type]
        same(found, searched(TABLE, source, beams, groups, diversity))


def test_groups_without_a_penalty_are_copies_and_with_one_they_are_unlike() -> None:
    alike = beam_search(TABLE.begin, SOURCES, beams=3, groups=3, **LIMITS)[0]
    unlike = beam_search(TABLE.begin, SOURCES, beams=3, groups=3, diversity=100.0, **LIMITS)[0]
    assert len({each.tokens for each in alike}) == 1
    assert len({each.tokens for each in unlike}) > 1


def test_greedy_decoding_is_a_beam_of_one_and_takes_the_likeliest_token() -> None:
    found = greedy(TABLE.begin, SOURCES, **LIMITS)
    beams = beam_search(TABLE.begin, SOURCES, beams=1, length_penalty=0.0, **LIMITS)
    for source, (mine, theirs) in enumerate(zip(found, beams, strict=True)):
        same(mine, theirs)
        prefix: tuple[int, ...] = ()
        while len(prefix) < LONGEST and END not in prefix:
            prefix = (*prefix, int(TABLE.after[source][prefix].argmax()))
        assert mine[0].tokens == prefix


def kept(source: int, rule: str) -> dict[tuple[int, ...], list[int]]:
    """The tokens that may follow each prefix, by sorting."""
    found = {}
    for prefix, log_p in TABLE.after[source].items():
        order = sorted(range(VOCABULARY), key=lambda token: -log_p[token].item())
        if rule == "top_k":
            found[prefix] = order[:2]
        else:
            total, tokens = 0.0, []
            for token in order:
                tokens.append(token)
                total += math.exp(log_p[token].item())
                if total >= 0.7:
                    break
            found[prefix] = tokens
    return found


@pytest.mark.parametrize(("rule", "keep"), [("all", everything), ("top_k", likeliest(2)), ("nucleus", nucleus(0.7))])
def test_samples_come_as_often_as_they_are_likely(rule: str, keep: Keep) -> None:
    numbers = uniforms(1, [0], SAMPLES, LONGEST)
    found = sample(TABLE.begin, SOURCES[:1], numbers=numbers, keep=keep, **LIMITS)[0]
    counts = Counter(each.tokens for each in found)
    wanted = distribution(TABLE, 0, None if rule == "all" else kept(0, rule))
    assert sum(wanted.values()) == pytest.approx(1.0)
    for tokens, probability in wanted.items():
        spread = math.sqrt(probability * (1 - probability) / SAMPLES)
        assert abs(counts[tokens] / SAMPLES - probability) <= 5 * spread + 1e-9, tokens
    assert found[0].score == pytest.approx(TABLE.score(0, found[0].tokens), abs=1e-5)


def test_a_nucleus_of_everything_and_all_tokens_are_no_limits() -> None:
    log_p = torch.stack([TABLE.after[0][()], TABLE.after[1][()]])
    assert torch.equal(nucleus(1.0)(log_p), log_p)
    assert torch.equal(likeliest(50)(log_p), log_p)


def test_the_edge_of_a_nucleus_is_the_token_that_reaches_the_share() -> None:
    log_p = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    assert torch.isfinite(nucleus(0.45)(log_p)).tolist() == [[True, False, False, False]]
    assert torch.isfinite(nucleus(0.6)(log_p)).tolist() == [[True, True, False, False]]


def test_a_sentences_samples_are_its_own_whatever_stands_beside_it() -> None:
    together = sample(TABLE.begin, SOURCES, numbers=uniforms(3, range(3), 4, LONGEST), keep=everything, **LIMITS)
    alone = sample(TABLE.begin, SOURCES[1:2], numbers=uniforms(3, [1], 4, LONGEST), keep=everything, **LIMITS)
    assert together[1] == alone[0]
    other = sample(TABLE.begin, SOURCES[1:2], numbers=uniforms(4, [1], 4, LONGEST), keep=everything, **LIMITS)
    assert other != alone


def test_sorted_by_length_they_come_back_in_their_order() -> None:
    sources = [[place] * (1 + place * 7 % 11) for place in range(25)]
    batches: list[list[int]] = []

    def decode(places: list[int]) -> list[list[Hypothesis]]:
        batches.append(places)
        return [[Hypothesis((sources[place][0],), 0.0)] for place in places]

    found = decode_sorted(sources, decode, budget=40)
    assert [row[0].tokens[0] for row in found] == list(range(25))
    assert len(batches) > 1
    lengths = [len(sources[place]) for batch in batches for place in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_a_model_that_says_nan_is_refused() -> None:
    broken = Table()
    broken.after[0][()] = torch.full((VOCABULARY,), torch.nan)
    for decode in (
        lambda: greedy(broken.begin, SOURCES, **LIMITS),
        lambda: beam_search(broken.begin, SOURCES, beams=2, **LIMITS),
    ):
        with pytest.raises(FloatingPointError, match="NaN"):
            decode()

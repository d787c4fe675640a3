"""Boards on which no method differs: how many of them carry a star all the same, by the functions of the tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from kdbench.board.statistics.intervals import LEAST_SEEDS, SURE, holm, t_test, units_of

BOARDS = 2000
KD, STUDENT = 1, 0  # rows of a board


def null_boards(samples: int, accuracy: float, shape: tuple[int, ...], correlation: float) -> np.ndarray:
    """Scores in % of methods that do not differ, `[BOARDS, methods, runs]`, of so many test samples each; two runs of a
    seed share a part of the samples, whose outcome is the same.
    """
    random = np.random.default_rng([samples, *shape, round(100 * correlation)])
    shared = round(samples * correlation)
    right = random.binomial(shared, accuracy, (BOARDS, 1, shape[-1]))
    return 100 * (right + random.binomial(samples - shared, accuracy, (BOARDS, *shape))) / samples


def starred(scores: np.ndarray, baseline: int, units: np.ndarray | None = None, seeds: int | None = None) -> np.ndarray:
    """Which boards have a star against a baseline, `[BOARDS]`; all methods of the board are the family."""
    others = np.delete(scores, baseline, axis=1)
    p = t_test(others - scores[:, baseline, None], units, seeds).p
    return (holm(p, others.shape[1]) < SURE).any(-1)


def surely(stars: np.ndarray) -> float:
    """The lower 95 % bound of the rate (Clopper and Pearson)."""
    return float(binomtest(int(stars.sum()), len(stars), alternative="greater").proportion_ci(0.95, "exact").low)


@pytest.mark.parametrize(
    ("test_set", "methods", "seeds", "correlation"),
    list(itertools.product([(360, 0.975), (10_000, 0.78)], [7, 62], [3, 5], [0.0, 0.5])),
)
def test_at_most_one_board_in_twenty_has_a_false_star(
    test_set: tuple[int, float], methods: int, seeds: int, correlation: float
) -> None:
    scores = null_boards(*test_set, (methods, seeds), correlation)
    assert max(surely(starred(scores, baseline)) for baseline in (STUDENT, KD)) <= 0.05


@pytest.mark.parametrize(("methods", "seeds"), [(7, 2), (62, 2)])
def test_two_seeds_never_give_a_star(methods: int, seeds: int) -> None:
    assert seeds < LEAST_SEEDS
    assert not starred(null_boards(360, 0.975, (methods, seeds), 0.0), KD).any()


def test_pairs_that_share_a_student_are_no_repetition_of_each_other() -> None:
    seeds, pairs = 5, 3
    scores = null_boards(10_000, 0.78, (7, seeds * pairs), 0.0)
    scores[:, STUDENT] = np.repeat(scores[:, STUDENT, :seeds], pairs, axis=-1)  # the plain student has no teacher
    runs = np.repeat(np.arange(seeds), pairs)
    assert surely(starred(scores, STUDENT)) > 0.1  # every run by itself
    assert surely(starred(scores, STUDENT, units_of(runs.tolist()), seeds)) <= 0.05


def test_the_units_of_pairs_with_students_of_their_own_are_the_runs() -> None:
    assert units_of([0, 0, 1, 1], ["S", "T", "S", "T"]).tolist() == [0, 1, 2, 3]
    assert units_of([0, 0, 1, 1], ["S", "S", "S", "S"]).tolist() == [0, 0, 1, 1]


def test_units_of_one_size_are_tested_by_their_means() -> None:
    runs = np.random.default_rng(0).normal(size=(4, 6))
    pooled, means = t_test(runs, np.array([0, 0, 1, 1, 2, 2])), t_test(runs.reshape(4, 3, 2).mean(-1))
    np.testing.assert_allclose([pooled.p, pooled.low, pooled.std], [means.p, means.low, means.std])


def test_two_seeds_of_many_pairs_are_two_seeds() -> None:
    found = t_test(np.random.default_rng(1).normal(3, 0.1, size=8), seeds=2)
    assert np.isnan([found.p, found.low, found.high]).all()
    assert found.std > 0


def test_what_is_too_coarse_to_test_counts_in_the_family() -> None:
    np.testing.assert_allclose(holm([0.02, np.nan, 0.01], 3), [0.04, np.nan, 0.03])
    np.testing.assert_allclose(holm([[0.02, 0.5], [0.04, 0.01]]), [[0.04, 0.5], [0.04, 0.02]])

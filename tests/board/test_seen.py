"""How many teachers a method sees, where its record does not say."""

from __future__ import annotations

import pytest

from kdbench.board.seen import teachers_of

TEACHER = {"network": "marian"}


@pytest.mark.parametrize(
    ("name", "hyperparameters", "seen"),
    [
        ("kd", {}, 1),
        ("student", {}, 0),
        ("byot", {}, 0),
        ("seq_kd", {"beams": 2}, 1),  # in the corpus that it trains on
        ("mhd", {"rule": "nucleus"}, 1),
        ("somebody's", {}, 1),  # nobody is at hand to ask
    ],
)
def test_the_method_is_asked_and_a_corpus_is_of_a_teacher(
    name: str, hyperparameters: dict[str, object], seen: int
) -> None:
    method = {"name": name, "hyperparameters": hyperparameters}
    assert teachers_of({"method": method, "teachers": [TEACHER]}) == seen
    assert teachers_of({"method": {**method, "teachers": 0}, "teachers": [TEACHER]}) == 0

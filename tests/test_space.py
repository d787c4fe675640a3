"""Search spaces: what lies in a dimension, what is around a value, how a record has it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from kdbench.errors import KDBenchError
from kdbench.space import Around, Choice, Dimension, Integer, LogUniform, Space, Uniform, read, said

ALL = (LogUniform(0.1, 10.0), Uniform(-1.0, 3.0), Integer(2, 5), Choice(1.0, None, "a"))


@pytest.mark.parametrize("dimension", ALL, ids=str)
def test_what_is_drawn_lies_in_it(dimension: Dimension) -> None:
    drawn = [dimension.at(share / 100) for share in range(100)] + [dimension.at(1 - 1e-12)]
    assert all(dimension.holds(value) for value in drawn)
    assert len(set(drawn)) == min(dimension.count, len(set(drawn))) > 2


def test_a_log_uniform_is_even_in_decades_and_a_uniform_in_numbers() -> None:
    assert LogUniform(0.01, 100.0).at(0.5) == 1.0
    assert LogUniform(0.01, 100.0).at(0.25) == 0.1
    assert Uniform(0.0, 10.0).at(0.25) == 2.5
    assert [Integer(1, 3).at(share) for share in (0.0, 0.34, 0.99)] == [1, 2, 3]
    assert [Choice("a", "b").at(share) for share in (0.0, 0.49, 0.5)] == ["a", "a", "b"]


def test_around_goes_by_the_value_at_hand_and_leaves_what_is_switched_off() -> None:
    assert Around().of(62.5) == LogUniform(6.25, 625.0)
    assert Around(2.0).of(3) == LogUniform(1.5, 6.0)
    assert [Around().of(value) for value in (0.0, None, True, -1.0, math.inf)] == [None] * 5
    assert Choice(1.0).of(9.0) == Choice(1.0)  # what is not relative stays


@pytest.mark.parametrize("dimension", [*ALL, Around(3.0)], ids=str)
def test_a_record_s_table_is_the_dimension_again(dimension: Dimension) -> None:
    assert read(dimension.table) == dimension


@pytest.mark.parametrize("table", [{}, {"kind": "normal"}, {"kind": "uniform", "low": 1.0}, {"kind": "choice"}, []])
def test_a_table_that_is_none_is_told(table: dict[str, object]) -> None:
    with pytest.raises(KDBenchError, match="no dimension"):
        read(table)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogUniform(0.0, 1.0),
        lambda: LogUniform(2.0, 1.0),
        lambda: Uniform(1.0, 1.0),
        lambda: Integer(1.0, 2.0),  # type: ignore[arg-type]
        lambda: Choice(),
        lambda: Choice(1, 1),
        lambda: Around(1.0),
    ],
)
def test_bounds_that_hold_nothing_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(KDBenchError, match="give"):
        make()


def test_a_space_cannot_be_changed_and_is_said_in_words() -> None:
    space = Space(weight=LogUniform(0.5, 2.0), temperature=Choice(1.0, 4.0), depth=Integer(1, 3))
    assert list(space) == ["weight", "temperature", "depth"]
    assert len(space) == 3
    assert not hasattr(space, "__setitem__")
    assert [said(dimension) for dimension in space.values()] == ["0.5 to 2, log", "1, 4", "1 to 3"]

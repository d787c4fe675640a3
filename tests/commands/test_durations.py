"""Spans of time, as they are typed and as they are told."""

from __future__ import annotations

import pytest

from kdbench.commands.durations import parsed, told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), ("1.5h", 5400), (" 2H ", 7200)],
)
def test_a_span_is_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert parsed(text, "--x") == seconds


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (600, "10 min"), (9000, "2.5 h")])
def test_an_estimate_has_few_digits(seconds: float, text: str) -> None:
    assert told(seconds) == text

"""Bounds of hyperparameters: what no method can compute with is refused, and every default is inside."""

from __future__ import annotations

import pytest

from kdbench import registry
from kdbench.errors import KDBenchError
from kdbench.registry.bounds import out_of_bounds


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        ("kd", {"temperature": -1}, "hyperparameter 'temperature' of kd is -1: give a number above 0"),
        ("kd", {"temperature": 0.0}, "above 0"),
        ("kd", {"kd_weight": -0.5}, "give 0 or a number above it"),
        ("student", {"label_smoothing": 1.5}, "from 0 to 1"),
        ("crd+kd", {"kd.temperature": -2.0}, "above 0"),
    ],
)
def test_a_value_out_of_bounds_is_refused(method: str, settings: dict[str, float], told: str) -> None:
    with pytest.raises(KDBenchError, match=told):
        registry.resolve(method, settings)


def test_every_default_is_inside() -> None:
    for name in registry.names():
        for key, value in registry.hyperparameters(registry.get(name)).items():
            assert out_of_bounds(key, value) == "", (name, key)

"""The search space of a method: declared, or the default; and what `kdbench check` says of it."""

from __future__ import annotations

import pytest

from kdbench import Around, Choice, Method, Space, Uniform, register, registry
from kdbench.registry.spaces import at_values, default_space, faults, space_of
from kdbench.space import LogUniform


def test_the_default_searches_weights_and_the_temperature() -> None:
    defaults = {
        **{"weight": 5.0, "hint_weight": 2, "feature_weight": 0.0, "ce_weight": 0.1, "task_weight": None},
        **{"temperature": 3.0, "power": 2.0, "official_weight": True},
    }
    assert default_space(defaults) == {
        "weight": Around(),
        "hint_weight": Around(),
        "temperature": Choice(1.0, 2.0, 3.0, 4.0, 8.0),
    }
    assert default_space({"temperature": 0.07})["temperature"].of(0.07) == LogUniform(0.0175, 0.28)


@pytest.mark.parametrize("name", registry.names())
def test_every_method_searches_what_it_has_around_its_defaults(name: str) -> None:
    cls = registry.get(name)
    assert not list(faults(cls))
    assert at_values(space_of(cls), registry.hyperparameters(cls)), "nothing to search"


def test_a_composition_has_its_parts_spaces() -> None:
    space = space_of(registry.get("crd+kd"))
    assert set(space) == {"crd.weight", "crd.temperature", "kd.kd_weight", "kd.temperature"}
    assert not list(faults(registry.get("crd+kd")))


def declare(space: Space | None) -> type[Method]:
    @register("searched", family="logits")
    class Searched(Method):
        search_space = space

        def __init__(self, weight: float = 1.0, stage: int = 2, mode: str = "a") -> None:
            super().__init__()

    return Searched


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize(
    ("space", "said"),
    [
        (Space(wait=Around()), "names 'wait', but its hyperparameters are weight, stage, mode"),
        (Space(weight=Uniform(2.0, 3.0)), "the default of 'weight' is 1.0, which is not in the search space"),
        (Space(stage=Choice(2, 2.5)), "hyperparameter 'stage' of searched is 2.5"),
        (Space(mode=Choice("a", 3)), "hyperparameter 'mode' of searched is 3"),
        (Space(weight=Around(), stage=Choice(1, 2)), ""),
        (Space(), ""),
        (None, ""),
    ],
)
def test_kdbench_check_says_what_is_wrong_with_a_space(space: Space | None, said: str) -> None:
    found = list(faults(declare(space)))
    assert len(found) == bool(said)
    assert all(said in sentence for sentence in found)

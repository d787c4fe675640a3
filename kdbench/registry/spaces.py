"""The search space of a method: what it declares, or a default for its weights and its temperature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdbench import registry
from kdbench.errors import KDBenchError
from kdbench.space import Around, Choice, Dimension

if TYPE_CHECKING:
    from kdbench.method import Method

LABELS = ("ce_weight", "task_weight")  # weights of the labels' own term: only the ratio to them says something
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
SHARP = Around(4.0)  # temperatures below 1 belong to contrastive terms, where they are no matter of softening


def space_of(cls: type[Method]) -> dict[str, Dimension]:
    """What may be tried for each hyperparameter; a composition's is that of its parts, as `part.name`.

    A method without `search_space` gets `default_space`.
    """
    if parts := getattr(cls, "parts", ()):
        return {f"{part.info.name}.{key}": values for part in parts for key, values in space_of(part).items()}
    declared = cls.search_space
    return dict(declared) if declared is not None else default_space(registry.hyperparameters(cls))


def default_space(defaults: Mapping[str, Any]) -> dict[str, Dimension]:
    """Ten times less to ten times more for `weight` and every `*_weight` but those of the labels' own term; 1, 2, 4, 8
    and the default for `temperature` (four times less to four times more where it is below 1). What is 0 or None stays
    as it is.
    """
    space: dict[str, Dimension] = {}
    for name, value in defaults.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            continue
        if name == "temperature":
            space[name] = Choice(*sorted({*TEMPERATURES, float(value)})) if value >= 1 else SHARP
        elif name.endswith("weight") and name not in LABELS:
            space[name] = Around()
    return space


def at_values(space: Mapping[str, Dimension], own: Mapping[str, Any]) -> dict[str, Dimension]:
    """The space around a method's own values, without what has nothing to search there."""
    around = {name: values.of(own[name]) for name, values in space.items()}
    return {name: values for name, values in around.items() if values is not None}


def faults(cls: type[Method]) -> Iterator[str]:
    """What is wrong with a method's space, in sentences: names that it has not, defaults that lie outside, values that
    it does not take.
    """
    defaults, name = registry.hyperparameters(cls), cls.info.name
    for key, values in space_of(cls).items():
        if key not in defaults:
            yield f"the search space of {name} names {key!r}, but its hyperparameters are {', '.join(defaults)}"
            continue
        if not values.holds(defaults[key]):
            yield f"the default of {key!r} is {defaults[key]!r}, which is not in the search space of {name}"
        if around := values.of(defaults[key]):
            yield from _refused(name, key, around)


def _refused(name: str, key: str, values: Dimension) -> Iterator[str]:
    """Why a method does not take what lies in a dimension: its first, middle or last value."""
    for share in (0.0, 0.5, 1 - 1e-9):
        try:
            registry.resolve(name, {key: values.at(share)})
        except KDBenchError as error:
            yield str(error)
            return

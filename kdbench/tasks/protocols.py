"""Protocols: what is done to a data set before training, always to the training samples and reproducibly.

    validation  = {fraction}      cut a stratified part from the training set and evaluate on it, not on the test set
    subset      = {per_class}     keep so many samples of each class
    imbalance   = {kind = "exponential", factor}      n_c = n_max * factor^(-c / (C - 1)), Cao et al. 2019
    label_noise = {kind = "symmetric" | "pairflip", rate}      wrong training labels, Han et al. 2018

They take any set whose samples have one class each (`Labelled`), and are applied in this order, so held-out labels stay
clean and the noise rate holds for the samples that are left.
Each takes an optional `seed` (default 0), apart from the seed of training: all runs of a suite see the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor

from kdbench.errors import KDBenchError, unknown
from kdbench.seeding import generator


class Labelled(Protocol):
    """A data set of a classification task, as a dataclass.

    Attributes:
        name: for messages.
        train_targets: class indices of the training samples, `[N]`, int64.
        num_classes: K.
        classes: the K names.
        protocol: what was done to the set (`resolve`).
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str: ...

    @property
    def train_targets(self) -> Tensor: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def protocol(self) -> Mapping[str, Any]: ...

    def select(self, index: Tensor) -> Self:
        """Keep these training samples `[M]`, in this order."""
        ...

    def hold_out(self, index: Tensor) -> Self:
        """Evaluate on these training samples `[M]` in place of the test set; they stay in the training set."""
        ...


Data = TypeVar("Data", bound=Labelled)

KINDS = {"imbalance": ("exponential",), "label_noise": ("symmetric", "pairflip")}
# Key -> (what it must be, whether a value is that), beside the optional `seed` and the `kind` of `KINDS`.
VALUES: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "validation": {"fraction": ("a number between 0 and 1, both excluded", lambda v: _is_number(v) and 0 < v < 1)},
    "subset": {"per_class": ("a whole number of at least 1", lambda v: _is_whole(v) and v >= 1)},
    "imbalance": {
        "factor": ("the size of the largest class over the smallest, at least 1", lambda v: _is_number(v) and v >= 1)
    },
    "label_noise": {"rate": ("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)},
}


def resolve(protocol: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Check a protocol and fill in its defaults, in the order of application.

    Raises:
        KDBenchError: for an unknown protocol, key or kind, a missing key, or a value out of range.
    """
    protocol = protocol or {}
    for name in protocol:
        if name not in VALUES:
            raise unknown("protocol", name, VALUES)
    return {name: _resolve_one(name, protocol[name]) for name in VALUES if name in protocol}


def apply(data: Data, protocol: Mapping[str, Any] | None) -> Data:
    """Apply a protocol; `data.clean_targets` keeps the training labels without noise.

    Raises:
        KDBenchError: as `resolve`, and where the set has too few samples.
    """
    resolved = resolve(protocol)
    for name, options in resolved.items():
        data = _STEPS[name](data, generator("protocol", name, options["seed"]), options)
    return replace(data, protocol=resolved)


def split_validation(targets: Tensor, fraction: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split `[N]` targets class by class into sorted indices to train on and to evaluate on."""
    held = [members[: round(fraction * len(members))] for members in _members(targets, draws)]
    held_out = torch.cat(held).sort().values
    keep = torch.ones(len(targets), dtype=torch.bool)
    keep[held_out] = False
    return keep.nonzero().flatten(), held_out


def select_subset(targets: Tensor, per_class: int, draws: torch.Generator) -> Tensor:
    """Sorted indices of `per_class` random samples of each class that occurs in `[N]` targets."""
    return torch.cat([members[:per_class] for members in _members(targets, draws)]).sort().values


def imbalanced_counts(largest: int, num_classes: int, factor: float) -> list[int]:
    """n_c = largest * factor^(-c / (C - 1)), rounded down, at least 1."""
    steps = max(num_classes - 1, 1)
    return [max(1, int(largest * factor ** (-c / steps) + 1e-6)) for c in range(num_classes)]  # 4.9999999 is meant as 5


def select_imbalanced(targets: Tensor, num_classes: int, factor: float, draws: torch.Generator) -> Tensor:
    """Sorted indices of a long-tailed part of `[N]` targets; class 0 stays largest."""
    counts = torch.bincount(targets, minlength=num_classes)
    wanted = imbalanced_counts(int(counts.max()), num_classes, factor)
    members = _members(targets, draws, num_classes)
    return torch.cat([m[:n] for m, n in zip(members, wanted, strict=True)]).sort().values


def add_label_noise(targets: Tensor, num_classes: int, kind: str, rate: float, draws: torch.Generator) -> Tensor:
    """Give exactly round(rate * N) of the `[N]` targets a wrong class.

    Args:
        kind: `"symmetric"`: any of the C - 1 other classes, the true one excluded; `"pairflip"`: c becomes c + 1
            (mod C).
    """
    chosen = torch.randperm(len(targets), generator=draws)[: round(rate * len(targets))]
    if kind == "pairflip":
        shift = torch.ones(len(chosen), dtype=torch.int64)
    else:
        shift = torch.randint(1, max(num_classes, 2), (len(chosen),), generator=draws)
    noisy = targets.clone()
    noisy[chosen] = (targets[chosen] + shift) % num_classes
    return noisy


def _members(targets: Tensor, draws: torch.Generator, num_classes: int | None = None) -> list[Tensor]:
    """The indices of each class in random order."""
    classes = range(num_classes if num_classes is not None else int(targets.max()) + 1)
    found = [(targets == c).nonzero().flatten() for c in classes]
    return [members[torch.randperm(len(members), generator=draws)] for members in found]


def _validation(data: Data, draws: torch.Generator, options: Mapping[str, Any]) -> Data:
    train, held_out = split_validation(data.train_targets, options["fraction"], draws)
    if not len(held_out):
        raise KDBenchError(
            f"validation.fraction = {options['fraction']} holds out no sample of {data.name!r}, whose largest "
            f"class has {int(torch.bincount(data.train_targets).max())}: give a larger fraction"
        )
    return data.hold_out(held_out).select(train)


def _subset(data: Data, draws: torch.Generator, options: Mapping[str, Any]) -> Data:
    counts = torch.bincount(data.train_targets, minlength=data.num_classes)
    smallest = int(counts.argmin())
    if counts[smallest] < options["per_class"]:
        raise KDBenchError(
            f"subset.per_class = {options['per_class']} is more than the {int(counts[smallest])} training samples of "
            f"class {data.classes[smallest]!r} of {data.name!r}: give at most {int(counts[smallest])}"
        )
    return data.select(select_subset(data.train_targets, options["per_class"], draws))


def _imbalance(data: Data, draws: torch.Generator, options: Mapping[str, Any]) -> Data:
    return data.select(select_imbalanced(data.train_targets, data.num_classes, options["factor"], draws))


def _label_noise(data: Data, draws: torch.Generator, options: Mapping[str, Any]) -> Data:
    noisy = add_label_noise(data.train_targets, data.num_classes, options["kind"], options["rate"], draws)
    return replace(data, train_targets=noisy)


_STEPS: dict[str, Callable[[Data, torch.Generator, Mapping[str, Any]], Data]] = {
    "validation": _validation,
    "subset": _subset,
    "imbalance": _imbalance,
    "label_noise": _label_noise,
}


def _resolve_one(name: str, options: Any) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise KDBenchError(f"protocol {name} is {options!r}, but it must be a table such as {_example(name)}")
    allowed = [*VALUES[name], *(["kind"] if name in KINDS else []), "seed"]
    for key in options:
        if key not in allowed:
            raise unknown(f"key of protocol {name}", key, allowed)
    resolved: dict[str, Any] = {}
    if name in KINDS:
        resolved["kind"] = options.get("kind", KINDS[name][0] if len(KINDS[name]) == 1 else None)
        if resolved["kind"] is None:
            raise KDBenchError(f"protocol {name} lacks its key 'kind': write e.g. {_example(name)}")
        if resolved["kind"] not in KINDS[name]:
            raise unknown(f"kind of protocol {name}", str(resolved["kind"]), KINDS[name])
    for key, (meaning, holds) in VALUES[name].items():
        if key not in options:
            raise KDBenchError(f"protocol {name} lacks its key {key!r}: write e.g. {_example(name)}")
        if not holds(options[key]):
            raise KDBenchError(f"{name}.{key} is {options[key]!r}, but it must be {meaning}")
        resolved[key] = options[key]
    resolved["seed"] = options.get("seed", 0)
    if not _is_whole(resolved["seed"]):
        raise KDBenchError(f"{name}.seed is {resolved['seed']!r}, but it must be a whole number")
    return resolved


def _example(name: str) -> str:
    return {
        "validation": "validation = {fraction = 0.1}",
        "subset": "subset = {per_class = 25}",
        "imbalance": 'imbalance = {kind = "exponential", factor = 100}',
        "label_noise": 'label_noise = {kind = "symmetric", rate = 0.4}',
    }[name]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

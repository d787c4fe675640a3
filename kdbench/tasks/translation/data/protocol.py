"""What a data set of parallel text is (its `options` in a suite), and what is done to it (its `protocol`).

    options      = {source, target, others, test, vocabulary, longest, beams, length_penalty}

    validation   = {fraction}      cut a part from the training set and score on it, not on the test set
    subset       = {pairs}         keep so many pairs of the training set
    multilingual = {per_language}  train on the other languages, too, on at most so many pairs of each (0: all)

The options are the same for teachers and students: they decide the vocabulary and what is scored. Each part of the
protocol takes an optional `seed`, apart from the seed of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbench.errors import KDBenchError, unknown

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "validation": ("fraction", "seed"),
    "subset": ("pairs", "seed"),
    "multilingual": ("per_language", "seed"),
}


@dataclass(frozen=True)
class Translation:
    """What a data set of parallel text is.

    Attributes:
        source, target: languages, as the data names them.
        others: more languages that its sources are translated into; with some, each source begins with the tag of the
            language that is wanted.
        test: pairs that are cut for the test set where the data comes without one.
        vocabulary: pieces of SentencePiece, of all languages together.
        longest: tokens of a sentence with its end; longer training pairs are left out, longer sources are cut.
        beams, length_penalty: of the search by which models are scored.
    """

    source: str = "en"
    target: str = ""
    others: tuple[str, ...] = ()
    test: int = 500
    vocabulary: int = 600
    longest: int = 64
    beams: int = 5
    length_penalty: float = 1.0


@dataclass(frozen=True)
class Protocol:
    """A checked protocol; None where a key is not given."""

    translation: Translation
    validation: Mapping[str, Any] | None = None
    subset: Mapping[str, Any] | None = None
    multilingual: Mapping[str, Any] | None = None


def resolve(given: Mapping[str, Any] | None, protocol: Mapping[str, Any], dataset: str) -> Protocol:
    """Check the options and the protocol of a data set.

    Raises:
        KDBenchError: for an unknown key, or a value that cannot be.
    """
    for key in protocol:
        if key not in OPTIONS:
            raise unknown("protocol", key, OPTIONS, "of translation")
    parts: dict[str, Any] = {}
    for key, allowed in OPTIONS.items():
        if key in protocol:
            parts[key] = _options(key, protocol[key], allowed)
    return Protocol(_translation(given or {}, dataset), **parts)


def _translation(given: Any, dataset: str) -> Translation:
    fields = Translation.__dataclass_fields__
    if not isinstance(given, Mapping):
        raise KDBenchError(
            f"the options of dataset {dataset!r} are {given!r}: give a table, e.g. {{ source = 'en', target = 'uk' }}"
        )
    for key in given:
        if key not in fields:
            raise unknown(f"option of dataset {dataset!r}", key, fields)
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    made = Translation(**values)
    for key in ("source", "target"):
        if not isinstance(getattr(made, key), str) or not getattr(made, key):
            raise KDBenchError(
                f"dataset {dataset!r} names no {key} language: give it, e.g. "
                "options = { source = 'en', target = 'uk' }"
            )
    if not isinstance(made.others, tuple) or not all(isinstance(each, str) and each for each in made.others):
        raise KDBenchError(f"options.others is {made.others!r}: give a list of languages")
    if made.target in made.others or len(set(made.others)) < len(made.others):
        raise KDBenchError(f"options.others is {list(made.others)}: name each other language once")
    for key, least in (("test", 1), ("vocabulary", 8), ("longest", 4), ("beams", 1)):
        _whole(f"options.{key}", getattr(made, key), least)
    if isinstance(made.length_penalty, bool) or not isinstance(made.length_penalty, int | float):
        raise KDBenchError(f"options.length_penalty is {made.length_penalty!r}: give a number")
    return made


def _options(name: str, given: Any, allowed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise KDBenchError(f"protocol {name} is {given!r}: give a table, e.g. {{ {allowed[0]} = ... }}")
    for key in given:
        if key not in allowed:
            raise unknown(f"key of protocol {name}", key, allowed)
    options = {"seed": 0, **given}
    _whole(f"{name}.seed", options["seed"], 0)
    if name == "multilingual":
        options.setdefault("per_language", 0)
        _whole("multilingual.per_language", options["per_language"], 0)
    elif name == "subset":
        _whole("subset.pairs", options.get("pairs"), 1)
    elif not isinstance(options.get("fraction"), float) or not 0 < options["fraction"] < 1:
        raise KDBenchError(f"validation.fraction is {options.get('fraction')!r}: give a number between 0 and 1")
    return options


def _whole(key: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise KDBenchError(f"{key} is {value!r}: give a whole number of at least {least}")

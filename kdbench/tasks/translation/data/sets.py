"""A data set of parallel text as it is trained and scored on: its splits, its vocabulary, its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from kdbench.errors import KDBenchError
from kdbench.seeding import generator
from kdbench.tasks.translation import vocabulary
from kdbench.tasks.translation.data.pairs import Pair, Splits, digest
from kdbench.tasks.translation.data.protocol import Protocol, Translation
from kdbench.tasks.translation.vocabulary import Vocabulary


@dataclass(frozen=True)
class TranslationData:
    """Parallel text under a protocol.

    Attributes:
        name: as the suite has it.
        options: languages, sizes, and how models are scored.
        train: pairs that are trained on; of other languages, too, under `multilingual`.
        test: pairs that are scored, none of whose sources is trained on.
        vocabulary: of teacher and students alike.
        left_out: training pairs that are not there, by reason.
    """

    name: str
    options: Translation
    train: Sequence[Pair]
    test: Sequence[Pair]
    vocabulary: Vocabulary
    left_out: Mapping[str, int]

    @cached_property
    def content(self) -> str:
        """16 hex digits over all pairs and the vocabulary."""
        return digest([*self.train, ("",), *self.test, (self.vocabulary.digest,)])


def make(name: str, splits: Splits, protocol: Protocol) -> TranslationData:
    """Cut the test set, train the vocabulary on what is left, cut the validation set, and then take a subset.

    So all protocols of a data set have one vocabulary, that of their teachers.

    Raises:
        KDBenchError: if there are too few pairs for the protocol.
    """
    options = protocol.translation
    train, test = list(splits.train), list(splits.test)
    if not test:
        test, train = _cut(train, options.test, "test", 0, name)
    tested = {pair.source for pair in test}
    allowed = [pair for pair in (*train, *splits.others) if pair.source not in tested]
    learned = vocabulary.train(_texts(allowed), options.vocabulary, _tags(options))
    if protocol.validation:
        share = protocol.validation["fraction"]
        held, train = _cut(train, max(1, round(share * len(train))), "validation", protocol.validation["seed"], name)
        scored = held
    else:
        scored = test
    seen = tested | {pair.source for pair in scored}
    others = [pair for pair in splits.others if pair.source not in seen]
    apart = [pair for pair in train if pair.source not in seen]
    left_out = {**splits.left_out, "source of the test set": len(train) - len(apart)}
    short = [pair for pair in apart if _fits(pair, learned, options.longest)]
    left_out["longer than `longest`"] = len(apart) - len(short)
    if protocol.subset:
        short = _subset(short, protocol.subset["pairs"], protocol.subset["seed"], name)
    if protocol.multilingual is not None:
        short += _of_each(others, learned, protocol.multilingual, options, name)
    if not short:
        raise KDBenchError(f"dataset {name!r} has no pair left to train on: give it more, or a larger `longest`")
    return TranslationData(name, options, tuple(short), tuple(scored), learned, left_out)


def _cut(pairs: list[Pair], count: int, what: str, seed: int, name: str) -> tuple[list[Pair], list[Pair]]:
    """So many pairs of different sources, drawn at random, and the rest without those sources."""
    order = torch.randperm(len(pairs), generator=generator("translation", what, seed)).tolist()
    chosen: dict[str, int] = {}
    for place in order:
        if len(chosen) == count:
            break
        chosen.setdefault(pairs[place].source, place)
    if len(chosen) < count or len(chosen) >= len({pair.source for pair in pairs}):
        raise KDBenchError(
            f"dataset {name!r} has {len(pairs)} pairs, of which {count} cannot be cut for the {what} set: give it fewer"
        )
    held = [pairs[place] for place in sorted(chosen.values())]
    return held, [pair for pair in pairs if pair.source not in chosen]


def _subset(pairs: list[Pair], count: int, seed: int, name: str) -> list[Pair]:
    if count > len(pairs):
        raise KDBenchError(
            f"subset.pairs = {count} is more than the {len(pairs)} training pairs of {name!r}: give at most as many"
        )
    order = torch.randperm(len(pairs), generator=generator("translation", "subset", seed))[:count]
    return [pairs[place] for place in order.sort().values.tolist()]


def _of_each(
    others: list[Pair], learned: Vocabulary, wanted: Mapping[str, int], options: Translation, name: str
) -> list[Pair]:
    """Pairs of the other languages."""
    if not options.others:
        raise KDBenchError(f"dataset {name!r} is multilingual, but options.others names no language: name some")
    found = []
    for language in options.others:
        mine = [pair for pair in others if pair.language == language and _fits(pair, learned, options.longest)]
        count = min(wanted["per_language"] or len(mine), len(mine))
        found += _subset(mine, count, wanted["seed"], name)
    return found


def _fits(pair: Pair, learned: Vocabulary, longest: int) -> bool:
    return max(len(learned.source(pair.source, pair.language)), len(learned.target(pair.target))) <= longest


def _texts(pairs: Sequence[Pair]) -> list[str]:
    return [text for pair in pairs for text in (pair.source, pair.target)]


def _tags(options: Translation) -> tuple[str, ...]:
    """A data set of one language needs no tags."""
    return (options.target, *options.others) if options.others else ()

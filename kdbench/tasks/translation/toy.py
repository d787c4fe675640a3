"""What the contract of methods is tried on: short random sentences over a small alphabet, and tiny networks."""

from __future__ import annotations

import torch

from kdbench.hardware.numerics import Numerics
from kdbench.seeding import generator
from kdbench.suites.grid import Recipe
from kdbench.tasks.translation.data import TranslationData
from kdbench.tasks.translation.data.pairs import Pair, Splits
from kdbench.tasks.translation.data.protocol import resolve
from kdbench.tasks.translation.data.sets import make
from kdbench.tasks.translation.task import TranslationTask

TEACHER = "marian(heads=2, layers=2, width=16)"
STUDENT = "marian(heads=2, layers=1, width=8)"
RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.02, weight_decay=0.0, clip_grad=5.0)
PAIRS = {"another family": {"teacher": "m2m100(heads=2, layers=1, width=16)"}}
METHODS = ("student", "kd", "dml", "word_kd", "seq_kd", "seq_inter", "mhd")
WORDS = ("a", "be", "cod", "dun", "elk", "fig", "gum", "hat")


def toy(numerics: Numerics, samples: int = 21, batch_size: int = 16) -> TranslationTask:
    """A task whose translations are the words of a source spelt backwards, in the order in which they stand."""
    return TranslationTask.of(data(samples), batch_size, numerics)


def data(samples: int = 21, tested: int = 3, longest: int = 16, **options: object) -> TranslationData:
    """So many pairs to train on and so many to score, of at most `longest` tokens."""
    pairs: dict[str, Pair] = {}
    draws = generator("toy translation")
    while len(pairs) < samples + tested:
        count = int(torch.randint(1, 4, (), generator=draws))
        words = [WORDS[int(place)] for place in torch.randint(len(WORDS), (count,), generator=draws)]
        source = " ".join(words)
        pairs[source] = Pair(source, " ".join(word[::-1] for word in words), "backwards")
    found = list(pairs.values())
    translation = {
        "source": "words", "target": "backwards", "vocabulary": 32, "longest": longest, "beams": 2, **options,
    }  # fmt: skip
    splits = Splits(found[tested:], found[:tested])
    return make("toy", splits, resolve(translation, {}, "toy"))

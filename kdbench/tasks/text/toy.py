"""A tiny set of random texts and tiny random encoders, on which methods of text are tried: no files, no downloads.

The student is a factorised copy of the teacher, which is what every method of text can train.
"""

from __future__ import annotations

import torch

from kdbench.hardware.numerics import Numerics
from kdbench.seeding import generator
from kdbench.suites.recipe import Recipe
from kdbench.tasks.text.data.sets import TextData, Texts
from kdbench.tasks.text.data.tokenizers import LEARNT, make
from kdbench.tasks.text.task import TextTask

TEACHER = "bert(heads=2, layers=2, width=24)"
STUDENT = "bert(heads=2, layers=2, rank=6, start='teacher', width=24)"
RECIPE = Recipe(
    epochs=4, batch_size=16, optimizer="adamw", learning_rate=0.002, weight_decay=0.0, clip_grad=5.0, schedule="cosine"
)
# what every method trains on, or gives the reason why it cannot
PAIRS = {
    "fewer layers": {"teacher": TEACHER, "student": "bert(heads=2, layers=1, width=24)"},
    "another width": {"teacher": TEACHER, "student": "bert(heads=2, layers=2, width=12)"},
    "other heads": {"teacher": TEACHER, "student": "bert(heads=3, layers=2, width=24)"},
    "another family": {"teacher": TEACHER, "student": "distilbert(heads=2, layers=2, width=24)"},
    "no layers to read": {"teacher": TEACHER, "student": "albert(heads=2, layers=2, width=24)"},
}
WORDS = (
    "red", "blue", "green", "cat", "dog", "bird", "runs", "sleeps", "eats", "under", "over", "beside",
    "house", "tree", "river",
)  # fmt: skip
CLASSES = ("colour", "animal", "verb")


class RandomTexts(TextTask):
    """Sentences of three to nine random words, whose class is that of their first word."""

    def __init__(self, numerics: Numerics, samples: int = 21, batch_size: int = 16) -> None:
        draws = generator("random texts")
        lengths = torch.randint(3, 10, (samples,), generator=draws).tolist()
        words = [torch.randint(len(WORDS), (count,), generator=draws).tolist() for count in lengths]
        texts = Texts(tuple(" ".join(WORDS[word] for word in each) for each in words))
        targets = torch.tensor([each[0] // 3 % len(CLASSES) for each in words])
        data = TextData("random", texts, targets, {"test": (texts, targets)}, CLASSES)
        tokenizer = make(LEARNT, texts)
        self._begin(data, [tokenizer], tokenizer.lengths(texts), batch_size, numerics)


def toy(numerics: Numerics, samples: int = 21, batch_size: int = 16) -> RandomTexts:
    """The task; by default the last batch of 21 samples holds 5."""
    return RandomTexts(numerics, samples, batch_size)

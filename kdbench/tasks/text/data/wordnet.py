"""WordNet's noun glosses (Fellbaum 1998): which of 26 kinds of thing is it that a gloss describes?

Debian's package `wordnet-base` brings WordNet 3.0: 82,115 glosses of 11.5 words on average; the largest class is 14 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import AbsentData, KDBenchError
from kdbench.seeding import generator
from kdbench.tasks.text.data.sets import TextData, Texts

PLACES = (Path("/usr/share/wordnet"), Path("/usr/local/share/wordnet"), Path("/usr/local/WordNet-3.0/dict"))
FIRST = 3  # number of the first lexicographer file of nouns
CLASSES = (
    "Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food",
    "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process", "quantity",
    "relation", "shape", "state", "substance", "time",
)  # fmt: skip
TEST = 8000


def load(root: Path, options: Mapping[str, Any]) -> TextData:
    """Of a fixed random order the first 8,000 glosses are the test set, the others the training set.

    Args:
        root: the data folder, whose `wordnet/data.noun` goes before the system's.
        options: `train_samples`, `test_samples`: take only so many.

    Raises:
        KDBenchError: if the file is absent or damaged, or has fewer.
    """
    file = next((p / "data.noun" for p in (root / "wordnet", *PLACES) if (p / "data.noun").is_file()), None)
    if file is None:
        raise AbsentData(
            f"dataset 'wordnet' is neither in {str(root / 'wordnet')!r} nor installed: apt install wordnet-base, or "
            "put WordNet 3.0's data.noun there (KDBENCH_DATA or --data names another data folder)"
        )
    texts, labels = read(file)
    if not texts:
        raise KDBenchError(f"{str(file)!r} has no glosses: it is no data.noun of WordNet")
    held = min(TEST, len(texts) // 5)
    order = torch.randperm(len(texts), generator=generator("wordnet"))
    parts = {"test": order[:held], "train": order[held:]}
    for name, part in parts.items():
        wanted = options.get(f"{name}_samples", len(part))
        if wanted > len(part):
            raise KDBenchError(f"{name}_samples is {wanted}, but wordnet has {len(part)} to {name}: give at most that")
        parts[name] = part[:wanted]
    every, targets = Texts(tuple(texts)), torch.tensor(labels)
    test = every.select(parts["test"]), targets[parts["test"]]
    return TextData("wordnet", every.select(parts["train"]), targets[parts["train"]], {"test": test}, CLASSES)


def read(file: Path) -> tuple[list[str], list[int]]:
    """The glosses of a `data.noun`, and the places of their classes in `CLASSES`."""
    texts, labels = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        head, bar, gloss = line.partition(" | ")
        if line.startswith("  ") or not bar:  # the licence
            continue
        texts.append(gloss.strip())
        labels.append(int(head.split()[1]) - FIRST)
    return texts, labels

"""What is said of single inputs, whatever the task: the likeliest classes in words, sentences that can be read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.method import answer_of

SHOWN = 3  # classes


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Tensor, numerics: Numerics) -> Tensor:
    """Of a network or deployed module about inputs `[N, ...]`, `[N, K]`, float32, on the CPU."""
    model.eval()
    with numerics.autocast():
        return answer_of(model(inputs)).float().cpu()


def likeliest(logits: Tensor, classes: Sequence[str], shown: int = SHOWN) -> list[str]:
    """A line for each row of logits `[N, K]`: its likeliest classes with their probabilities, the first one first."""
    probabilities, places = logits.softmax(1).topk(min(shown, logits.shape[1]))
    return [
        ", ".join(f"{classes[place]} {100 * value:.1f} %" for value, place in zip(values, row, strict=True))
        for values, row in zip(probabilities.tolist(), places.tolist(), strict=True)
    ]


def sentences(given: Sequence[str]) -> list[str]:
    """The same, if all of it is text.

    Raises:
        KDBenchError: for bytes that are none in the terminal's encoding.
    """
    for text in given:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise KDBenchError(f"input {text!r} is no text: give a sentence in UTF-8")
    return list(given)

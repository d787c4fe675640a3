"""DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter (Sanh, Debut, Chaumond, Wolf 2019).

Soft answers, labels, and the direction of the last hidden states; the student takes every second teacher layer.

    L = kd_weight T^2 KL(z_t || z_s) + ce_weight CE(z_s, y) + cosine_weight mean over real tokens of 1 - cos(h_s, h_t)

Pre-training of the paper: 5, 2 (masked words for y) and 1, T 2.

Deviations: the task's labels and answers stand where the paper has masked words, which needs a corpus; the weights are
those of its pre-training. Token types, the pooler and position embeddings are as in BERT, and train. A student of
another width is fitted by a linear layer. `minilm_l6(layers=3)` takes every
second layer.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Paper, Space, register
from kdbench.connectors import fitted, require_same_tokens, width_of
from kdbench.losses import answer_kl, token_mean, wide


def cosine_distance(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """1 - cos of hidden states `[B, L, D]`, mean over the real tokens."""
    return token_mean(1 - F.cosine_similarity(wide(student), wide(teacher), dim=2), mask)


@register(
    "distilbert",
    family="text",
    paper=Paper(
        title="DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        authors="Sanh et al.",
        year=2019,
        arxiv="1910.01108",
        code="huggingface/transformers-research-projects",
    ),
    fidelity="official-code",
)
class DistilBERT(Method):
    needs = frozenset({"tokens"})
    reads_logits = False
    search_space = Space(kd_weight=Around(), cosine_weight=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0))

    def __init__(
        self, kd_weight: float = 5.0, ce_weight: float = 2.0, cosine_weight: float = 1.0, temperature: float = 2.0
    ) -> None:
        super().__init__()
        self.kd_weight, self.ce_weight = kd_weight, ce_weight
        self.cosine_weight, self.temperature = cosine_weight, temperature

    def build(self, student: Any, teacher: Any) -> None:
        require_same_tokens("distilbert", student, teacher)
        self.fit = fitted(width_of(student), width_of(teacher))

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        ours = self.fit(student.hidden[-1])
        return {
            **{name: self.ce_weight * term for name, term in student.supervised(batch).items()},
            "kd": self.kd_weight * answer_kl(student.logits, teacher.logits, self.temperature),
            "cosine": self.cosine_weight * cosine_distance(ours, teacher.hidden[-1], student.mask),
        }

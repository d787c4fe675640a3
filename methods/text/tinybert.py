"""TinyBERT: Distilling BERT for Natural Language Understanding (Jiao et al., Findings of EMNLP 2020).

First the student's layers imitate the teacher's attention scores and hidden states, then its answers.

    phase intermediate:  L = hidden_weight sum_{m=0..M} MSE(W h_s^m, h_t^g(m))
                             + attention_weight sum_{m=1..M} MSE(A_s^m, A_t^g(m))
    phase prediction:    L = soft cross-entropy(z_t, z_s) at temperature 1

A: scores Q K^T / sqrt(d) before the softmax; h^0: the embeddings; W: one matrix for all; g(m) = m L_T / M. Without
labels. Paper: weights 1; 10 to 20 epochs of the first phase and 3 of the second.

Deviations:
- Means are over real tokens and pairs of real tokens. `pad_positions=True` is the authors' form: all positions, with
  the scores of padded keys zero on both sides.
- The authors' prediction loss is also divided by the number of classes: `class_mean=True`.
- No general distillation before, no augmented data. Regression imitates the teacher's number, not the label as in the
  authors' code.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdbench import Around, Batch, KDBenchError, Method, Paper, Phase, Space, Uniform, register
from kdbench.connectors import require_same_heads, require_same_tokens, uniform_layers, width_of
from kdbench.losses import answer_cross_entropy, token_mse, wide


def score_mse(student: Tensor, teacher: Tensor, mask: Tensor, pad_positions: bool = False) -> Tensor:
    """Mean squared difference of scores `[B, H, L, L]` before the softmax.

    Args:
        mask: real tokens `[B, L]`, bool; the scores of other keys are taken for 0 on both sides.
        pad_positions: take the mean over all L x L places; else over those of real tokens.
    """
    pairs = mask[:, None, None, :].expand_as(student)
    pairs = pairs if pad_positions else pairs & mask[:, None, :, None]
    ours, theirs = (wide(scores).masked_fill(~pairs, 0.0) for scores in (student, teacher))
    total = (ours - theirs).square().sum()
    return total / (student.numel() if pad_positions else pairs.sum().clamp(min=1))


@register(
    "tinybert",
    family="text",
    paper=Paper(
        title="TinyBERT: Distilling BERT for Natural Language Understanding",
        authors="Jiao et al.",
        year=2020,
        venue="Findings of EMNLP",
        arxiv="1909.10351",
        code="huawei-noah/Pretrained-Language-Model",
    ),
    fidelity="official-code",
)
class TinyBERT(Method):
    needs = frozenset({"tokens", "attentions"})
    reads_logits = False
    search_space = Space(hidden_weight=Around(), attention_weight=Around(), intermediate_share=Uniform(0.3, 0.8))

    def __init__(
        self,
        hidden_weight: float = 1.0,
        attention_weight: float = 1.0,
        intermediate_share: float = 10 / 13,
        pad_positions: bool = False,
        class_mean: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < intermediate_share < 1:
            raise KDBenchError(f"tinybert's intermediate_share is {intermediate_share}: give a share between 0 and 1")
        self.hidden_weight, self.attention_weight = hidden_weight, attention_weight
        self.intermediate_share = intermediate_share
        self.pad_positions, self.class_mean = pad_positions, class_mean

    def build(self, student: Any, teacher: Any) -> None:
        require_same_tokens("tinybert", student, teacher)
        require_same_heads("tinybert", student, teacher)
        self.met = uniform_layers("tinybert", student, teacher)
        self.fit = nn.Linear(width_of(student), width_of(teacher))

    def phases(self) -> tuple[Phase, ...]:
        share = self.intermediate_share
        return (Phase("intermediate", share, milestones=()), Phase("prediction", 1 - share, modules=()))

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        if self.phase == "prediction":
            return {"prediction": answer_cross_entropy(student.logits, teacher.logits, self.class_mean)}
        mask = student.mask
        hidden = sum(
            token_mse(self.fit(student.hidden[m]), teacher.hidden[met], None if self.pad_positions else mask)
            for m, met in enumerate([0, *self.met])
        )
        attention = sum(
            score_mse(student.scores(m), teacher.scores(met), mask, self.pad_positions)
            for m, met in enumerate(self.met, 1)
        )
        return {"hidden": self.hidden_weight * hidden, "attention": self.attention_weight * attention}
